/*
 * nvml_process_usage.c: how busy each process keeps a GPU, and the driver's accounts of processes.
 *
 * Figures are the host's, as in nvml_usage.c. The driver's accounts go by process ids of the host: they mean this
 * container's processes only where its ids are the host's, and then its living processes are shown. Elsewhere an id of
 * ours would be answered with a stranger's account, so there are none.
 */
#include "nvml_usage.h"
#include "real.h"

/* PROC_PID_INIT_INO: what names the pid namespace that the host's driver counts in. */
#define HOST_PID_NAMESPACE UINT64_C(0xeffffffc)

struct usage {
    struct fg_nvml_share share;
    struct fg_nvml_processes processes;
    uint64_t time_us;
};

/* The processes that have been busy since. `code` is the driver's answer when it was asked for the size alone. On success the caller ends usage->processes. */
static nvmlReturn_t busy_since(nvmlReturn_t code, nvmlDevice_t device, unsigned long long last_seen_us,
                               struct usage *usage, bool *limited)
{
    *limited = true;
    if (code != NVML_SUCCESS && code != NVML_ERROR_INSUFFICIENT_SIZE && code != NVML_ERROR_NOT_FOUND)
        return code;
    code = fg_nvml_share_processes(device, &usage->share, &usage->processes);
    if (code != NVML_SUCCESS)
        return code;
    *limited = usage->share.view.limited;
    if (!*limited) {
        fg_nvml_processes_end(&usage->processes);
        return NVML_SUCCESS;
    }
    uint32_t busy = 0;
    for (uint32_t index = 0; index < usage->processes.count; index++) {
        struct fg_nvml_process process = usage->processes.entries[index];
        if (process.sm_bp != 0 || process.memory_bp != 0)
            usage->processes.entries[busy++] = process;
    }
    usage->processes.count = busy;
    usage->time_us = fg_nvml_measured_us(&usage->share);
    if (!usage->share.measured)
        code = NVML_ERROR_NOT_SUPPORTED;
    else if (busy == 0 || fg_nvml_is_seen(&usage->share, last_seen_us))
        code = NVML_ERROR_NOT_FOUND;
    if (code != NVML_SUCCESS)
        fg_nvml_processes_end(&usage->processes);
    return code;
}

nvmlReturn_t fg_hook_nvmlDeviceGetProcessUtilization(nvmlDevice_t device, struct fg_nvml_process_sample *samples,
                                                     unsigned int *count, unsigned long long last_seen_us)
{
    struct usage usage;
    bool limited;
    unsigned int none = 0;
    if (count == NULL)
        return FG_CALL(nvmlDeviceGetProcessUtilization, device, samples, NULL, last_seen_us);
    nvmlReturn_t code = FG_CALL(nvmlDeviceGetProcessUtilization, device, NULL, &none, 0);
    code = busy_since(code, device, last_seen_us, &usage, &limited);
    if (!limited)
        return FG_CALL(nvmlDeviceGetProcessUtilization, device, samples, count, last_seen_us);
    if (code != NVML_SUCCESS)
        return code;
    uint32_t room = samples == NULL ? 0 : *count;
    *count = usage.processes.count;
    if (*count > room)
        code = NVML_ERROR_INSUFFICIENT_SIZE;
    for (uint32_t index = 0; index < *count && code == NVML_SUCCESS; index++) {
        const struct fg_nvml_process *process = &usage.processes.entries[index];
        samples[index] = (struct fg_nvml_process_sample){
            .pid = process->pid,
            .time_us = usage.time_us,
            .sm = fg_nvml_percent(&usage.share, process->sm_bp),
            .memory = fg_nvml_percent(&usage.share, process->memory_bp),
        };
    }
    fg_nvml_processes_end(&usage.processes);
    return code;
}

nvmlReturn_t fg_hook_nvmlDeviceGetProcessesUtilizationInfo(nvmlDevice_t device,
                                                           struct fg_nvml_processes_utilization *info)
{
    struct usage usage;
    bool limited;
    if (info == NULL)
        return FG_CALL(nvmlDeviceGetProcessesUtilizationInfo, device, NULL);
    /* Any other version is a struct that this shim could not fill. */
    if (info->version != FG_NVML_PROCESSES_UTILIZATION_V1)
        return NVML_ERROR_ARGUMENT_VERSION_MISMATCH;
    struct fg_nvml_processes_utilization size = {.version = info->version};
    nvmlReturn_t code = FG_CALL(nvmlDeviceGetProcessesUtilizationInfo, device, &size);
    code = busy_since(code, device, info->last_seen_us, &usage, &limited);
    if (!limited)
        return FG_CALL(nvmlDeviceGetProcessesUtilizationInfo, device, info);
    if (code != NVML_SUCCESS)
        return code;
    uint32_t room = info->processes == NULL ? 0 : info->count;
    info->count = usage.processes.count;
    if (info->count > room)
        code = NVML_ERROR_INSUFFICIENT_SIZE;
    for (uint32_t index = 0; index < info->count && code == NVML_SUCCESS; index++) {
        const struct fg_nvml_process *process = &usage.processes.entries[index];
        info->processes[index] = (struct fg_nvml_process_utilization){
            .time_us = usage.time_us,
            .pid = process->pid,
            .sm = fg_nvml_percent(&usage.share, process->sm_bp),
            .memory = fg_nvml_percent(&usage.share, process->memory_bp),
        };
    }
    fg_nvml_processes_end(&usage.processes);
    return code;
}

/* Of the container's processes, those that the driver has an account of. */
static void keep_accounted(nvmlDevice_t device, struct fg_nvml_processes *processes)
{
    uint32_t kept = 0;
    for (uint32_t index = 0; index < processes->count; index++) {
        struct fg_nvml_process process = processes->entries[index];
        struct fg_nvml_accounting_stats stats;
        if (processes->pid_namespace_inode == HOST_PID_NAMESPACE &&
            FG_CALL(nvmlDeviceGetAccountingStats, device, process.pid, &stats) == NVML_SUCCESS)
            processes->entries[kept++] = process;
    }
    processes->count = kept;
}

nvmlReturn_t fg_hook_nvmlDeviceGetAccountingPids(nvmlDevice_t device, unsigned int *count, unsigned int *pids)
{
    struct fg_nvml_share share;
    struct fg_nvml_processes processes;
    unsigned int none = 0;
    nvmlReturn_t code = FG_CALL(nvmlDeviceGetAccountingPids, device, count == NULL ? NULL : &none, NULL);
    if (code != NVML_SUCCESS && code != NVML_ERROR_INSUFFICIENT_SIZE)
        return code;
    code = fg_nvml_share_processes(device, &share, &processes);
    if (code != NVML_SUCCESS)
        return code;
    if (share.view.limited) {
        uint32_t room = pids == NULL ? 0 : *count;
        keep_accounted(device, &processes);
        *count = processes.count;
        code = processes.count > room ? NVML_ERROR_INSUFFICIENT_SIZE : NVML_SUCCESS;
        for (uint32_t index = 0; index < processes.count && code == NVML_SUCCESS; index++)
            pids[index] = processes.entries[index].pid;
    }
    fg_nvml_processes_end(&processes);
    return share.view.limited ? code : FG_CALL(nvmlDeviceGetAccountingPids, device, count, pids);
}

/* Whether the driver's account of this id may be shown; `code` is what the driver says of it. */
static nvmlReturn_t own_account(nvmlReturn_t code, nvmlDevice_t device, unsigned int pid)
{
    struct fg_nvml_share share;
    struct fg_nvml_processes processes;
    if (code != NVML_SUCCESS)
        return code;
    code = fg_nvml_share_processes(device, &share, &processes);
    if (code != NVML_SUCCESS)
        return code;
    bool own = processes.pid_namespace_inode == HOST_PID_NAMESPACE && fg_nvml_find(&processes, pid) != NULL;
    fg_nvml_processes_end(&processes);
    return !share.view.limited || own ? NVML_SUCCESS : NVML_ERROR_NOT_FOUND;
}

nvmlReturn_t fg_hook_nvmlDeviceGetAccountingStats(nvmlDevice_t device, unsigned int pid,
                                                  struct fg_nvml_accounting_stats *stats)
{
    struct fg_nvml_accounting_stats real;
    nvmlReturn_t code = FG_CALL(nvmlDeviceGetAccountingStats, device, pid, stats == NULL ? NULL : &real);
    code = own_account(code, device, pid);
    if (code == NVML_SUCCESS)
        *stats = real;
    return code;
}

nvmlReturn_t fg_hook_nvmlDeviceGetAccountingStats_v2(nvmlDevice_t device, struct fg_nvml_accounting_stats_v2 *stats)
{
    struct fg_nvml_accounting_stats_v2 real;
    if (stats == NULL)
        return FG_CALL(nvmlDeviceGetAccountingStats_v2, device, NULL);
    real = *stats;
    nvmlReturn_t code = FG_CALL(nvmlDeviceGetAccountingStats_v2, device, &real);
    code = own_account(code, device, stats->pid);
    if (code == NVML_SUCCESS)
        *stats = real;
    return code;
}

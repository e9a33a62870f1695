/*
 * nvml_processes.c: the processes that use a GPU: those of this container, with what each is charged.
 *
 * The state files name them, so the list is right in a pid namespace in which the driver can name nobody. Compute
 * processes are all that hold memory here. Which of them draw pictures as well or are served by MPS the driver alone
 * knows: of its lists, the container's own are kept.
 */
#include "nvml_share.h"
#include "real.h"

/* A list of the caller's, in one of three layouts. */
struct listing {
    enum fg_nvml_process_mode mode;
    uint32_t layout;                   /* 1, 2 (which is 3, too), or 0 for nvmlDeviceGetRunningProcessDetailList */
    uint32_t count;
    void *infos;
};

static void put(const struct listing *listing, uint32_t index, const struct fg_nvml_process *process)
{
    const unsigned int none = (unsigned int)FG_NVML_NO_INSTANCE;
    if (listing->layout == 1)
        ((struct fg_nvml_process_v1 *)listing->infos)[index] =
            (struct fg_nvml_process_v1){.pid = process->pid, .used = process->used_bytes};
    else if (listing->layout == 2)
        ((struct fg_nvml_process_v2 *)listing->infos)[index] = (struct fg_nvml_process_v2){
            .pid = process->pid, .used = process->used_bytes, .gpu_instance = none, .compute_instance = none};
    else
        ((struct fg_nvml_process_detail *)listing->infos)[index] = (struct fg_nvml_process_detail){
            .pid = process->pid, .used = process->used_bytes, .gpu_instance = none, .compute_instance = none};
}

/* NVML's protocol: with too little room, say how much it takes. */
static nvmlReturn_t give(const struct fg_nvml_processes *processes, struct listing *listing)
{
    uint32_t room = listing->count;
    listing->count = processes->count;
    if (processes->count > room)
        return NVML_ERROR_INSUFFICIENT_SIZE;
    for (uint32_t index = 0; index < processes->count; index++)
        put(listing, index, &processes->entries[index]);
    return NVML_SUCCESS;
}

/* What the driver lists: at most as many as have slots on a GPU are looked at. */
enum { DRIVER_LIST_MAX = 1024 };

static nvmlReturn_t ask_driver(nvmlDevice_t device, enum fg_nvml_process_mode mode, unsigned int *count,
                               struct fg_nvml_process_v2 *infos)
{
    if (mode == FG_NVML_GRAPHICS)
        return FG_CALL(nvmlDeviceGetGraphicsRunningProcesses_v3, device, count, infos);
    return FG_CALL(nvmlDeviceGetMPSComputeRunningProcesses_v3, device, count, infos);
}

/* Of the container's processes, keep those that the driver lists, too. */
static nvmlReturn_t keep_listed(nvmlDevice_t device, enum fg_nvml_process_mode mode,
                                struct fg_nvml_processes *processes)
{
    struct fg_nvml_process_v2 infos[DRIVER_LIST_MAX];
    unsigned int listed = DRIVER_LIST_MAX;
    nvmlReturn_t code = ask_driver(device, mode, &listed, infos);
    if (code != NVML_SUCCESS)
        return code;
    uint32_t kept = 0;
    for (uint32_t index = 0; index < processes->count; index++) {
        struct fg_nvml_process process = processes->entries[index];
        for (unsigned int other = 0; other < listed; other++) {
            if (infos[other].pid == process.pid) {
                processes->entries[kept++] = process;
                break;
            }
        }
    }
    processes->count = kept;
    return NVML_SUCCESS;
}

/* What a driver answers to a question of size, when it can be asked at all. */
static bool is_answer(nvmlReturn_t code)
{
    return code == NVML_SUCCESS || code == NVML_ERROR_INSUFFICIENT_SIZE;
}

/* Fill the listing. `limited` says whether it is this shim's to fill, or the driver's. */
static nvmlReturn_t list(nvmlDevice_t device, struct listing *listing, bool *limited)
{
    struct fg_nvml_share share;
    struct fg_nvml_processes processes;
    *limited = true;
    nvmlReturn_t code = fg_nvml_share_processes(device, &share, &processes);
    if (code != NVML_SUCCESS)
        return code;
    *limited = share.view.limited;
    if (*limited && (listing->mode == FG_NVML_GRAPHICS || listing->mode == FG_NVML_MPS))
        code = keep_listed(device, listing->mode, &processes);
    if (*limited && code == NVML_SUCCESS)
        code = give(&processes, listing);
    fg_nvml_processes_end(&processes);
    return code;
}

#define LIST(name, shown_mode, shown_layout, type) \
    nvmlReturn_t fg_hook_##name(nvmlDevice_t device, unsigned int *count, type *infos) \
    { \
        unsigned int none = 0; \
        bool limited; \
        if (count == NULL || (infos == NULL && *count != 0)) \
            return FG_CALL(name, device, count, infos); \
        nvmlReturn_t code = FG_CALL(name, device, &none, NULL); \
        if (!is_answer(code)) \
            return code; \
        struct listing listing = {.mode = shown_mode, .layout = shown_layout, .count = *count, .infos = infos}; \
        code = list(device, &listing, &limited); \
        if (!limited) \
            return FG_CALL(name, device, count, infos); \
        if (is_answer(code)) \
            *count = listing.count; \
        return code; \
    }

LIST(nvmlDeviceGetComputeRunningProcesses, FG_NVML_COMPUTE, 1, struct fg_nvml_process_v1)
LIST(nvmlDeviceGetComputeRunningProcesses_v2, FG_NVML_COMPUTE, 2, struct fg_nvml_process_v2)
LIST(nvmlDeviceGetComputeRunningProcesses_v3, FG_NVML_COMPUTE, 2, struct fg_nvml_process_v2)
LIST(nvmlDeviceGetGraphicsRunningProcesses, FG_NVML_GRAPHICS, 1, struct fg_nvml_process_v1)
LIST(nvmlDeviceGetGraphicsRunningProcesses_v2, FG_NVML_GRAPHICS, 2, struct fg_nvml_process_v2)
LIST(nvmlDeviceGetGraphicsRunningProcesses_v3, FG_NVML_GRAPHICS, 2, struct fg_nvml_process_v2)
LIST(nvmlDeviceGetMPSComputeRunningProcesses, FG_NVML_MPS, 1, struct fg_nvml_process_v1)
LIST(nvmlDeviceGetMPSComputeRunningProcesses_v2, FG_NVML_MPS, 2, struct fg_nvml_process_v2)
LIST(nvmlDeviceGetMPSComputeRunningProcesses_v3, FG_NVML_MPS, 2, struct fg_nvml_process_v2)

nvmlReturn_t fg_hook_nvmlDeviceGetRunningProcessDetailList(nvmlDevice_t device,
                                                           struct fg_nvml_process_detail_list *processes)
{
    bool limited;
    if (processes == NULL)
        return FG_CALL(nvmlDeviceGetRunningProcessDetailList, device, NULL);
    /* Any other version is a struct that this shim could not fill. */
    if (processes->version != FG_NVML_PROCESS_DETAIL_LIST_V1)
        return NVML_ERROR_ARGUMENT_VERSION_MISMATCH;
    struct fg_nvml_process_detail_list size = {.version = processes->version, .mode = processes->mode};
    nvmlReturn_t code = FG_CALL(nvmlDeviceGetRunningProcessDetailList, device, &size);
    if (!is_answer(code))
        return code;
    struct listing listing = {.mode = (enum fg_nvml_process_mode)processes->mode,
                              .count = processes->processes == NULL ? 0 : processes->count,
                              .infos = processes->processes};
    code = list(device, &listing, &limited);
    if (!limited)
        return FG_CALL(nvmlDeviceGetRunningProcessDetailList, device, processes);
    if (is_answer(code))
        processes->count = listing.count;
    return code;
}

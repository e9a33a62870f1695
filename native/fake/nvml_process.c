/* nvml_process.c: which processes use a device, in every layout that callers may ask for. */
#define _GNU_SOURCE
#include "nvml.h"
#include "procfs.h"

#include <ctype.h>
#include <dirent.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/*
 * Is /proc/<pid> this process? The namespace and the id in it say so, but another user's namespaces are not for
 * everybody to read; then the id and the time of the start must do.
 */
static bool is_process(const char *pid, const struct machine_process *process)
{
    uint64_t pid_namespace = procfs_pid_namespace(pid);
    if (pid_namespace != 0 && pid_namespace != process->pid_namespace_inode) {
        return false;
    }
    return procfs_innermost_pid(pid) == process->pid &&
           (pid_namespace != 0 || procfs_start_time(pid) == process->start_time_ticks);
}

static int search_proc(const struct machine_process *process)
{
    DIR *proc = opendir("/proc");
    int found = -1;
    for (struct dirent *entry; found < 0 && proc != NULL && (entry = readdir(proc)) != NULL;) {
        if (isdigit((unsigned char)entry->d_name[0]) && is_process(entry->d_name, process)) {
            found = atoi(entry->d_name);
        }
    }
    if (proc != NULL) {
        closedir(proc);
    }
    return found;
}

/*
 * The process's id in our own pid namespace, -1 when it has none there: the driver does not name a process to who
 * could not see it (NVIDIA's open kernel modules, _gpuConvertPid). Where a /proc is missing nothing can be told apart.
 */
static int translate_pid(const struct machine_process *process)
{
    uint64_t own = procfs_pid_namespace("self");
    if (process->pid_namespace_inode == 0 || own == 0 || own == process->pid_namespace_inode) {
        return process->pid;
    }
    return search_proc(process);
}

unsigned nvml_processes(nvmlDevice device, struct machine_process processes[FAKE_SLOT_COUNT])
{
    int count = machine_processes(&nvml_machine, device->gpu, processes, FAKE_SLOT_COUNT);
    unsigned known = 0;
    for (int i = 0; i < count; i++) {
        struct machine_process process = processes[i];
        process.pid = translate_pid(&process);
        if (process.pid >= 0) {
            processes[known++] = process;
        }
    }
    return known;
}

/* Numbered as in nvmlProcessDetailList_v1_t. */
enum mode { COMPUTE, GRAPHICS, MPS, ALL };

static bool is_of(const struct machine_process *process, enum mode mode)
{
    switch (mode) {
    case COMPUTE:
        return process->compute;
    case GRAPHICS:
        return process->graphics;
    case MPS:
        return process->mps;
    default:
        return true;
    }
}

static unsigned processes_of(nvmlDevice device, enum mode mode, struct machine_process processes[FAKE_SLOT_COUNT])
{
    unsigned known = nvml_processes(device, processes), kept = 0;
    for (unsigned i = 0; i < known; i++) {
        if (is_of(&processes[i], mode)) {
            processes[kept++] = processes[i];
        }
    }
    return kept;
}

typedef void put_function(void *infos, unsigned index, const struct machine_process *process);

static void put_v1(void *infos, unsigned index, const struct machine_process *process)
{
    ((nvmlProcessInfo_v1 *)infos)[index] = (nvmlProcessInfo_v1){ (unsigned)process->pid, process->used_bytes };
}

static void put_v2(void *infos, unsigned index, const struct machine_process *process)
{
    ((nvmlProcessInfo_v2 *)infos)[index] = (nvmlProcessInfo_v2){
        (unsigned)process->pid, process->used_bytes, NVML_NO_INSTANCE, NVML_NO_INSTANCE };
}

static void put_detail(void *infos, unsigned index, const struct machine_process *process)
{
    ((nvmlProcessDetail_v1 *)infos)[index] = (nvmlProcessDetail_v1){
        (unsigned)process->pid, process->used_bytes, NVML_NO_INSTANCE, NVML_NO_INSTANCE, 0 };
}

/* *count says how many infos there is room for, and is set to how many there are. */
static nvmlReturn list(nvmlDevice device, enum mode mode, unsigned *count, void *infos, put_function *put)
{
    NVML_TRY(nvml_check(device));
    NVML_REQUIRE(count != NULL && (infos != NULL || *count == 0), NVML_ERROR_INVALID_ARGUMENT);
    struct machine_process processes[FAKE_SLOT_COUNT];
    unsigned capacity = *count;
    *count = processes_of(device, mode, processes);
    NVML_REQUIRE(*count <= capacity, NVML_ERROR_INSUFFICIENT_SIZE);
    for (unsigned i = 0; i < *count; i++) {
        put(infos, i, &processes[i]);
    }
    return NVML_SUCCESS;
}

#define RUNNING(kind, mode, suffix, put) \
    NVMLAPI nvmlReturn nvmlDeviceGet##kind##RunningProcesses##suffix(nvmlDevice d, unsigned *count, void *infos) \
    { \
        return list(d, mode, count, infos, put); \
    }
#define RUNNING_IN_EVERY_LAYOUT(kind, mode) \
    RUNNING(kind, mode, , put_v1) \
    RUNNING(kind, mode, _v2, put_v2) \
    RUNNING(kind, mode, _v3, put_v2)

RUNNING_IN_EVERY_LAYOUT(Compute, COMPUTE)
RUNNING_IN_EVERY_LAYOUT(Graphics, GRAPHICS)
RUNNING_IN_EVERY_LAYOUT(MPSCompute, MPS)

NVMLAPI nvmlReturn nvmlDeviceGetRunningProcessDetailList(nvmlDevice device, nvmlProcessDetailList_v1 *out)
{
    NVML_TRY(nvml_check(device));
    NVML_REQUIRE(out != NULL, NVML_ERROR_INVALID_ARGUMENT);
    NVML_REQUIRE(out->version == NVML_PROCESS_DETAIL_LIST_V1, NVML_ERROR_ARGUMENT_VERSION_MISMATCH);
    NVML_REQUIRE(out->mode <= ALL, NVML_ERROR_INVALID_ARGUMENT);
    return list(device, (enum mode)out->mode, &out->count, out->processes, put_detail);
}

NVMLAPI nvmlReturn nvmlSystemGetProcessName(unsigned pid, char *name, unsigned length)
{
    NVML_TRY(nvml_ready());
    NVML_REQUIRE(name != NULL && length > 0, NVML_ERROR_INVALID_ARGUMENT);
    char path[64];
    snprintf(path, sizeof path, "/proc/%u/cmdline", pid);
    FILE *file = fopen(path, "re");
    NVML_REQUIRE(file != NULL, NVML_ERROR_NOT_FOUND);
    size_t got = fread(name, 1, length - 1, file);
    fclose(file);
    name[got] = '\0';                     /* the arguments are apart by NULs: what is left is the program */
    return NVML_SUCCESS;
}

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

/* The processes that this one may know of, with their ids here; returns how many. */
static unsigned known_processes(int gpu, struct machine_process processes[FAKE_SLOT_COUNT])
{
    int count = machine_processes(&nvml_machine, gpu, processes, FAKE_SLOT_COUNT);
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

static void put_v1(void *infos, unsigned index, unsigned pid, uint64_t used)
{
    ((nvmlProcessInfo_v1 *)infos)[index] = (nvmlProcessInfo_v1){ pid, used };
}

static void put_v2(void *infos, unsigned index, unsigned pid, uint64_t used)
{
    ((nvmlProcessInfo_v2 *)infos)[index] =
        (nvmlProcessInfo_v2){ pid, used, NVML_NO_INSTANCE, NVML_NO_INSTANCE };
}

typedef void put_function(void *infos, unsigned index, unsigned pid, uint64_t used);

static nvmlReturn running(nvmlDevice device, unsigned *count, void *infos, put_function *put)
{
    NVML_TRY(nvml_check(device));
    NVML_REQUIRE(count != NULL && (infos != NULL || *count == 0), NVML_ERROR_INVALID_ARGUMENT);
    struct machine_process processes[FAKE_SLOT_COUNT];
    unsigned capacity = *count;
    *count = known_processes(device->gpu, processes);
    NVML_REQUIRE(*count <= capacity, NVML_ERROR_INSUFFICIENT_SIZE);
    for (unsigned i = 0; i < *count; i++) {
        put(infos, i, (unsigned)processes[i].pid, processes[i].used_bytes);
    }
    return NVML_SUCCESS;
}

/* Nothing in the model draws pictures or runs an MPS server. */
static nvmlReturn none(nvmlDevice device, unsigned *count)
{
    NVML_TRY(nvml_check(device));
    NVML_REQUIRE(count != NULL, NVML_ERROR_INVALID_ARGUMENT);
    *count = 0;
    return NVML_SUCCESS;
}

#define RUNNING(suffix, put) \
    NVMLAPI nvmlReturn nvmlDeviceGetComputeRunningProcesses##suffix(nvmlDevice d, unsigned *count, void *infos) \
    { \
        return running(d, count, infos, put); \
    } \
    NVMLAPI nvmlReturn nvmlDeviceGetGraphicsRunningProcesses##suffix(nvmlDevice d, unsigned *count, void *infos) \
    { \
        (void)infos; \
        return none(d, count); \
    } \
    NVMLAPI nvmlReturn nvmlDeviceGetMPSComputeRunningProcesses##suffix(nvmlDevice d, unsigned *count, void *infos) \
    { \
        (void)infos; \
        return none(d, count); \
    }

RUNNING(, put_v1)
RUNNING(_v2, put_v2)
RUNNING(_v3, put_v2)

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

/* nvml_process.c: which processes use a device, in every layout that callers may ask for. */
#define _GNU_SOURCE
#include "nvml.h"

#include <ctype.h>
#include <dirent.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

static bool in_namespace(const char *pid, uint64_t inode)
{
    char path[64];
    struct stat st;
    snprintf(path, sizeof path, "/proc/%.20s/ns/pid", pid);
    return stat(path, &st) == 0 && (uint64_t)st.st_ino == inode;
}

/* The last number of the NSpid line: the id in the innermost namespace. */
static int innermost_pid(const char *pid)
{
    char path[64], line[256];
    int found = -1;
    snprintf(path, sizeof path, "/proc/%.20s/status", pid);
    FILE *file = fopen(path, "re");
    while (file != NULL && fgets(line, sizeof line, file) != NULL) {
        if (strncmp(line, "NSpid:", 6) == 0) {
            const char *last = strrchr(line, '\t');
            found = last != NULL ? atoi(last + 1) : -1;
        }
    }
    if (file != NULL) {
        fclose(file);
    }
    return found;
}

static int search_proc(const struct machine_process *process)
{
    DIR *proc = opendir("/proc");
    int found = -1;
    for (struct dirent *entry; found < 0 && proc != NULL && (entry = readdir(proc)) != NULL;) {
        if (isdigit((unsigned char)entry->d_name[0]) &&
            in_namespace(entry->d_name, process->pid_namespace_inode) &&
            innermost_pid(entry->d_name) == process->pid) {
            found = atoi(entry->d_name);
        }
    }
    if (proc != NULL) {
        closedir(proc);
    }
    return found;
}

int nvml_translate_pid(const struct machine_process *process)
{
    if (process->pid_namespace_inode == 0 || in_namespace("self", process->pid_namespace_inode)) {
        return process->pid;
    }
    int translated = search_proc(process);
    return translated >= 0 ? translated : process->pid;
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
    *count = (unsigned)machine_processes(&nvml_machine, device->gpu, processes, FAKE_SLOT_COUNT);
    NVML_REQUIRE(*count <= capacity, NVML_ERROR_INSUFFICIENT_SIZE);
    for (unsigned i = 0; i < *count; i++) {
        put(infos, i, (unsigned)nvml_translate_pid(&processes[i]), processes[i].used_bytes);
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

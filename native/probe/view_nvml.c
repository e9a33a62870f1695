/* view_nvml.c: what NVML says. */
#define _GNU_SOURCE
#include "view.h"

#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "json.h"

#define INSUFFICIENT_SIZE 7
#define MEMORY_V2 (2u << 24 | (unsigned)sizeof(struct memory_v2))

struct memory_v1 { unsigned long long total, free, used; };
struct memory_v2 { unsigned version; unsigned long long total, reserved, free, used; };
struct process { unsigned pid; unsigned long long used; unsigned gpu_instance, compute_instance; };

static struct {
    int (*init)(void);
    int (*shutdown)(void);
    int (*count)(unsigned *);
    int (*handle)(unsigned, void **);
    int (*uuid)(void *, char *, unsigned);
    int (*name)(void *, char *, unsigned);
    int (*memory)(void *, struct memory_v1 *);
    int (*memory_v2)(void *, struct memory_v2 *);
    int (*processes)(void *, unsigned *, struct process *);
} nvml;

static bool bind(void *library)
{
    const struct { const char *symbol; void *slot; } needs[] = {
        { "nvmlInit_v2", &nvml.init }, { "nvmlShutdown", &nvml.shutdown }, { "nvmlDeviceGetCount_v2", &nvml.count },
        { "nvmlDeviceGetHandleByIndex_v2", &nvml.handle }, { "nvmlDeviceGetUUID", &nvml.uuid },
        { "nvmlDeviceGetName", &nvml.name }, { "nvmlDeviceGetMemoryInfo", &nvml.memory },
        { "nvmlDeviceGetMemoryInfo_v2", &nvml.memory_v2 },
        { "nvmlDeviceGetComputeRunningProcesses_v3", &nvml.processes },
    };
    for (size_t i = 0; i < sizeof needs / sizeof *needs; i++) {
        void *found = dlsym(library, needs[i].symbol);
        if (found == NULL) {
            return false;
        }
        memcpy(needs[i].slot, &found, sizeof found);
    }
    return true;
}

static void print_text(const char *key, int status, const char *text)
{
    printf(", \"%s\": ", key);
    json_text(status == 0 ? text : NULL);
}

static void print_amounts(const char *key, unsigned long long total, unsigned long long free_bytes,
                          unsigned long long used)
{
    printf(", \"%s\": {\"total_bytes\": %llu, \"free_bytes\": %llu", key, total, free_bytes);
    printf(", \"used_bytes\": %llu", used);
}

static void print_memory(void *device)
{
    struct memory_v1 v1 = { 0 };
    struct memory_v2 v2 = { .version = MEMORY_V2 };
    if (nvml.memory(device, &v1) == 0) {
        print_amounts("v1", v1.total, v1.free, v1.used);
        putchar('}');
    } else {
        printf(", \"v1\": null");
    }
    if (nvml.memory_v2(device, &v2) == 0) {
        print_amounts("v2", v2.total, v2.free, v2.used);
        printf(", \"reserved_bytes\": %llu}", v2.reserved);
    } else {
        printf(", \"v2\": null");
    }
}

/* The list may grow between two questions: ask until it fits. */
static struct process *ask_processes(void *device, unsigned *count)
{
    struct process *processes = NULL;
    unsigned capacity = 0;
    for (;;) {
        *count = capacity;
        int status = nvml.processes(device, count, processes);
        if (status == 0) {
            return processes;
        }
        free(processes);
        processes = NULL;
        if (status != INSUFFICIENT_SIZE) {
            *count = 0;
            return NULL;
        }
        capacity = *count + 8;
        processes = calloc(capacity, sizeof *processes);
        if (processes == NULL) {
            abort();
        }
    }
}

static void print_processes(void *device)
{
    unsigned count;
    struct process *processes = ask_processes(device, &count);
    printf(", \"processes\": [");
    for (unsigned i = 0; i < count; i++) {
        printf("%s{\"pid\": %u, \"used_bytes\": %llu}", i > 0 ? ", " : "", processes[i].pid, processes[i].used);
    }
    putchar(']');
    free(processes);
}

static void print_device(unsigned index)
{
    char text[256] = "";
    void *device = NULL;
    printf("{\"index\": %u", index);
    if (nvml.handle(index, &device) == 0) {
        print_text("uuid", nvml.uuid(device, text, sizeof text), text);
        print_text("name", nvml.name(device, text, sizeof text), text);
        print_memory(device);
        print_processes(device);
    }
    putchar('}');
}

bool view_nvml(void)
{
    void *library = dlopen("libnvidia-ml.so.1", RTLD_NOW | RTLD_LOCAL);
    if (library == NULL || !bind(library)) {
        view_loader_error();
        return false;
    }
    unsigned count = 0;
    int status = nvml.init();
    bool session = status == 0;
    if (session) {
        status = nvml.count(&count);
    }
    putchar('{');
    view_library(dlsym(library, "nvmlInit_v2"));
    printf(", \"status\": %d, \"devices\": [", status);
    for (unsigned index = 0; status == 0 && index < count; index++) {
        printf("%s", index > 0 ? ", " : "");
        print_device(index);
    }
    printf("]}");
    if (session) {
        nvml.shutdown();
    }
    return true;
}

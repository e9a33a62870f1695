/* view_cuda.c: what the driver API says. */
#define _GNU_SOURCE
#include "view.h"

#include <dlfcn.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include "json.h"

static struct {
    int (*init)(unsigned);
    int (*count)(int *);
    int (*uuid)(uint8_t[16], int);
    int (*name)(char *, int, int);
    int (*total)(size_t *, int);
    int (*retain)(void **, int);
    int (*release)(int);
    int (*push)(void *);
    int (*pop)(void **);
    int (*info)(size_t *, size_t *);
} cuda;

/* The exported spellings, as a program linked with libcuda uses them. */
static bool bind(void *library)
{
    const struct { const char *symbol; void *slot; } needs[] = {
        { "cuInit", &cuda.init }, { "cuDeviceGetCount", &cuda.count }, { "cuDeviceGetUuid_v2", &cuda.uuid },
        { "cuDeviceGetName", &cuda.name }, { "cuDeviceTotalMem_v2", &cuda.total },
        { "cuDevicePrimaryCtxRetain", &cuda.retain }, { "cuDevicePrimaryCtxRelease_v2", &cuda.release },
        { "cuCtxPushCurrent_v2", &cuda.push }, { "cuCtxPopCurrent_v2", &cuda.pop },
        { "cuMemGetInfo_v2", &cuda.info },
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

static void print_bytes(const char *key, bool known, size_t bytes)
{
    if (known) {
        printf(", \"%s\": %zu", key, bytes);
    } else {
        printf(", \"%s\": null", key);
    }
}

static void print_uuid(int device)
{
    uint8_t uuid[16];
    if (cuda.uuid(uuid, device) != 0) {
        printf("null");
        return;
    }
    printf("\"GPU-");
    for (int i = 0; i < 16; i++) {
        printf(i == 4 || i == 6 || i == 8 || i == 10 ? "-%02x" : "%02x", uuid[i]);
    }
    putchar('"');
}

static void print_device(int device)
{
    char name[256] = "";
    size_t free_bytes = 0, total = 0, device_total = 0;
    void *context = NULL;
    bool raised = cuda.retain(&context, device) == 0 && cuda.push(context) == 0;
    bool known = raised && cuda.info(&free_bytes, &total) == 0;
    bool named = cuda.name(name, sizeof name, device) == 0;
    printf("{\"ordinal\": %d, \"uuid\": ", device);
    print_uuid(device);
    printf(", \"name\": ");
    json_text(named ? name : NULL);
    print_bytes("free_bytes", known, free_bytes);
    print_bytes("total_bytes", known, total);
    print_bytes("device_total_bytes", cuda.total(&device_total, device) == 0, device_total);
    putchar('}');
    if (raised) {
        cuda.pop(&context);
        cuda.release(device);
    }
}

bool view_cuda(void)
{
    void *library = dlopen("libcuda.so.1", RTLD_NOW | RTLD_LOCAL);
    if (library == NULL || !bind(library)) {
        view_loader_error();
        return false;
    }
    int count = 0, status = cuda.init(0);
    if (status == 0) {
        status = cuda.count(&count);
    }
    putchar('{');
    view_library(dlsym(library, "cuInit"));
    printf(", \"status\": %d, \"devices\": [", status);
    for (int device = 0; status == 0 && device < count; device++) {
        printf("%s", device > 0 ? ", " : "");
        print_device(device);
    }
    printf("]}");
    return true;
}

/* memory_api.c: device memory through NVIDIA's runtime library or through the driver. */
#define _GNU_SOURCE
#include "memory_api.h"

#include <dlfcn.h>
#include <errno.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "driver_api.h"
#include "json.h"

#define MIB ((size_t)1 << 20)
#define CUDA_VERSION 12000

static const char *name;
static int (*allocate)(void **, size_t);
static int (*release)(void *);
static int (*info)(size_t *, size_t *);
static const char *(*runtime_error_name)(int);
static int (*driver_error_name)(int, const char **);
static int (*driver_init)(unsigned);
static int (*primary_retain)(void **, int);
static int (*set_current)(void *);

struct need { const char *symbol; void *slot; };

static bool fail(const char *what, const char *detail, int code)
{
    printf("{\"event\": \"error\", \"api\": \"%s\", \"what\": ", name);
    json_text(what);
    printf(", \"detail\": ");
    json_text(detail);
    printf(", \"code\": %d}", code);
    json_end_line();
    return false;
}

/* POSIX lets a data pointer hold a function's address; C has no conversion for it, so the bytes are copied. */
static bool bind(const struct need *needs, size_t count, void *library)
{
    for (size_t i = 0; i < count; i++) {
        const char *symbol = needs[i].symbol;
        void *found = library != NULL ? dlsym(library, symbol) : driver_function(symbol, CUDA_VERSION);
        if (found == NULL) {
            return fail("symbol not found", symbol, 0);
        }
        memcpy(needs[i].slot, &found, sizeof found);
    }
    return true;
}

static bool open_runtime(const char *path)
{
    const struct need needs[] = {
        { "cudaMalloc", &allocate }, { "cudaFree", &release }, { "cudaMemGetInfo", &info },
        { "cudaGetErrorName", &runtime_error_name },
    };
    void *library = dlopen(path, RTLD_NOW | RTLD_LOCAL);
    if (library == NULL) {
        return fail("runtime library not loaded", dlerror(), 0);
    }
    return bind(needs, sizeof needs / sizeof *needs, library);
}

static bool open_driver(void)
{
    const struct need needs[] = {
        { "cuMemAlloc", &allocate }, { "cuMemFree", &release }, { "cuMemGetInfo", &info },
        { "cuGetErrorName", &driver_error_name }, { "cuInit", &driver_init },
        { "cuDevicePrimaryCtxRetain", &primary_retain }, { "cuCtxSetCurrent", &set_current },
    };
    if (driver_library() == NULL) {
        return fail("driver library not loaded", dlerror(), 0);
    }
    if (!bind(needs, sizeof needs / sizeof *needs, NULL)) {
        return false;
    }
    void *context = NULL;
    int code = driver_init(0);
    code = code != 0 ? code : primary_retain(&context, 0);
    code = code != 0 ? code : set_current(context);
    return code == 0 || fail("driver not initialised", memory_error_name(code), code);
}

bool memory_api_open(const char *which)
{
    bool driver = strcmp(which, "driver") == 0;
    name = driver ? "driver" : "runtime";
    return driver ? open_driver() : open_runtime(which);
}

const char *memory_api_name(void)
{
    return name;
}

int memory_allocate(void **out, size_t bytes)
{
    return allocate(out, bytes);
}

int memory_release(void *pointer)
{
    return release(pointer);
}

int memory_info(size_t *free_bytes, size_t *total_bytes)
{
    return info(free_bytes, total_bytes);
}

const char *memory_error_name(int code)
{
    const char *text = NULL;
    if (runtime_error_name != NULL) {
        return runtime_error_name(code);
    }
    return driver_error_name != NULL && driver_error_name(code, &text) == 0 ? text : NULL;
}

size_t parse_mib(const char *text)
{
    char *end;
    errno = 0;
    unsigned long long value = strtoull(text, &end, 10);
    bool valid = text[0] >= '0' && text[0] <= '9' && *end == '\0' && errno == 0 && value <= SIZE_MAX / MIB;
    return valid ? (size_t)value * MIB : 0;
}

static void stop_signals(sigset_t *signals)
{
    sigemptyset(signals);
    sigaddset(signals, SIGTERM);
    sigaddset(signals, SIGINT);
}

void stop_prepare(void)
{
    sigset_t signals;
    stop_signals(&signals);
    sigprocmask(SIG_BLOCK, &signals, NULL);
}

void stop_wait(void)
{
    sigset_t signals;
    int received;
    stop_signals(&signals);
    sigwait(&signals, &received);
}

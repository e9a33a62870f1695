/*
 * calls SHIM DRIVER LIVE ROUNDS CALLS: nanoseconds per call through the shim and directly, in one process.
 *
 * SHIM and DRIVER are the two libcuda.so.1; the shim's real library is DRIVER itself, so both ways end in the same
 * code. Rounds alternate between the two, and the median round counts, so that whatever else the machine does falls on
 * both alike. LIVE allocations exist throughout. Prints one line per kind of call: name, direct, shim.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#define SMALL_BYTES 4096

typedef void *handle_t;

struct api {
    int (*init)(unsigned);
    int (*retain)(handle_t *, int);
    int (*set_current)(handle_t);
    int (*alloc)(uint64_t *, size_t);
    int (*release)(uint64_t);
    int (*alloc_async)(uint64_t *, size_t, handle_t);
    int (*release_async)(uint64_t, handle_t);
    int (*info)(size_t *, size_t *);
    int (*synchronize)(handle_t);
    int (*device)(int *);
};

static void *need(void *library, const char *name)
{
    void *function = dlsym(library, name);
    if (function == NULL) {
        fprintf(stderr, "no %s\n", name);
        exit(1);
    }
    return function;
}

static struct api load(const char *path)
{
    void *library = dlopen(path, RTLD_NOW | RTLD_LOCAL);
    if (library == NULL) {
        fprintf(stderr, "%s\n", dlerror());
        exit(1);
    }
    struct api api;
    *(void **)&api.init = need(library, "cuInit");
    *(void **)&api.retain = need(library, "cuDevicePrimaryCtxRetain");
    *(void **)&api.set_current = need(library, "cuCtxSetCurrent");
    *(void **)&api.alloc = need(library, "cuMemAlloc_v2");
    *(void **)&api.release = need(library, "cuMemFree_v2");
    *(void **)&api.alloc_async = need(library, "cuMemAllocAsync");
    *(void **)&api.release_async = need(library, "cuMemFreeAsync");
    *(void **)&api.info = need(library, "cuMemGetInfo_v2");
    *(void **)&api.synchronize = need(library, "cuStreamSynchronize");
    *(void **)&api.device = need(library, "cuCtxGetDevice");
    return api;
}

static void must(int code)
{
    if (code != 0) {
        fprintf(stderr, "error %d\n", code);
        exit(1);
    }
}

static void alloc_and_free(const struct api *api)
{
    uint64_t address;
    must(api->alloc(&address, SMALL_BYTES));
    must(api->release(address));
}

static void alloc_and_free_async(const struct api *api)
{
    uint64_t address;
    must(api->alloc_async(&address, SMALL_BYTES, NULL));
    must(api->release_async(address, NULL));
}

static void get_info(const struct api *api)
{
    size_t free_bytes, total;
    must(api->info(&free_bytes, &total));
}

static void synchronize(const struct api *api)
{
    must(api->synchronize(NULL));
}

static void not_hooked(const struct api *api)
{
    int device;
    must(api->device(&device));
}

static const struct {
    const char *name;
    void (*run)(const struct api *);
} kinds[] = {
    {"cuMemAlloc+cuMemFree", alloc_and_free},
    {"cuMemGetInfo", get_info},
    {"cuStreamSynchronize", synchronize},
    {"cuCtxGetDevice", not_hooked},
    /* Last: from here on the process has a pool. */
    {"cuMemAllocAsync+cuMemFreeAsync", alloc_and_free_async},
};

static double round_ns(const struct api *api, void (*run)(const struct api *), int calls)
{
    struct timespec begin, end;
    clock_gettime(CLOCK_MONOTONIC, &begin);
    for (int call = 0; call < calls; call++)
        run(api);
    clock_gettime(CLOCK_MONOTONIC, &end);
    return ((double)(end.tv_sec - begin.tv_sec) * 1e9 + (double)(end.tv_nsec - begin.tv_nsec)) / calls;
}

static int by_value(const void *one, const void *other)
{
    double a = *(const double *)one, b = *(const double *)other;
    return (a > b) - (a < b);
}

int main(int count, char **arguments)
{
    if (count != 6)
        return 2;
    struct api shim = load(arguments[1]), direct = load(arguments[2]);
    int live = atoi(arguments[3]), rounds = atoi(arguments[4]), calls = atoi(arguments[5]);
    double *times[2] = {malloc(sizeof(double) * (size_t)rounds), malloc(sizeof(double) * (size_t)rounds)};
    handle_t context;
    uint64_t address;
    must(shim.init(0));
    must(shim.retain(&context, 0));
    must(shim.set_current(context));
    for (int index = 0; index < live; index++)
        must(shim.alloc(&address, SMALL_BYTES));
    for (size_t kind = 0; kind < sizeof(kinds) / sizeof(kinds[0]); kind++) {
        for (int round = 0; round < rounds; round++) {
            times[0][round] = round_ns(&direct, kinds[kind].run, calls);
            times[1][round] = round_ns(&shim, kinds[kind].run, calls);
        }
        qsort(times[0], (size_t)rounds, sizeof(double), by_value);
        qsort(times[1], (size_t)rounds, sizeof(double), by_value);
        printf("%s %.1f %.1f\n", kinds[kind].name, times[0][rounds / 2], times[1][rounds / 2]);
    }
    return 0;
}

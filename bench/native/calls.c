/*
 * calls SHIM DRIVER LIVE ROUNDS CALLS: nanoseconds per call through the shim and directly, in one process.
 *
 * SHIM and DRIVER are the two libcuda.so.1; the shim's real library is DRIVER itself, so both ways end in the same
 * code; what DRIVER does not have is left out. Rounds alternate between the two, and the median round counts, so that whatever else the machine does falls on
 * both alike. LIVE allocations exist throughout. Prints one line per kind of call: name, direct, shim.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

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
    int (*query)(const char *, void **, int, uint64_t, int *);
};

static void *open_library(const char *path)
{
    void *library = dlopen(path, RTLD_NOW | RTLD_LOCAL);
    if (library == NULL) {
        fprintf(stderr, "%s\n", dlerror());
        exit(1);
    }
    return library;
}

static struct api load(void *library)
{
    struct api api;
    *(void **)&api.init = dlsym(library, "cuInit");
    *(void **)&api.retain = dlsym(library, "cuDevicePrimaryCtxRetain");
    *(void **)&api.set_current = dlsym(library, "cuCtxSetCurrent");
    *(void **)&api.alloc = dlsym(library, "cuMemAlloc_v2");
    *(void **)&api.release = dlsym(library, "cuMemFree_v2");
    *(void **)&api.alloc_async = dlsym(library, "cuMemAllocAsync");
    *(void **)&api.release_async = dlsym(library, "cuMemFreeAsync");
    *(void **)&api.info = dlsym(library, "cuMemGetInfo_v2");
    *(void **)&api.synchronize = dlsym(library, "cuStreamSynchronize");
    *(void **)&api.device = dlsym(library, "cuCtxGetDevice");
    *(void **)&api.query = dlsym(library, "cuGetProcAddress_v2");
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

static void start(const struct api *api)
{
    must(api->init(0));
}

static void not_hooked(const struct api *api)
{
    int device;
    must(api->device(&device));
}

/* CUDA's runtime asks some 480 times when it starts; most of what it asks for is not hooked. */
static void ask_not_hooked(const struct api *api)
{
    void *function;
    must(api->query("cuCtxGetDevice", &function, 12000, 0, NULL));
}

static void ask_hooked(const struct api *api)
{
    void *function;
    must(api->query("cuMemGetInfo", &function, 12000, 0, NULL));
}

static const struct {
    const char *name;
    const char *symbol;
    void (*run)(const struct api *);
} kinds[] = {
    {"cuMemAlloc+cuMemFree", "cuMemAlloc_v2", alloc_and_free},
    {"cuMemGetInfo", "cuMemGetInfo_v2", get_info},
    {"cuStreamSynchronize", "cuStreamSynchronize", synchronize},
    {"cuCtxGetDevice", "cuCtxGetDevice", not_hooked},
    {"cuGetProcAddress", "cuGetProcAddress_v2", ask_not_hooked},
    {"cuGetProcAddress(hooked)", "cuGetProcAddress_v2", ask_hooked},
    /* Last: from here on the process has a pool. */
    {"cuMemAllocAsync+cuMemFreeAsync", "cuMemAllocAsync", alloc_and_free_async},
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

/* cuInit in a child that knows nothing yet: what a process pays once, or for the shim: what it pays more. */
static double start_ns(const struct api *api)
{
    double *shared = mmap(NULL, sizeof(double), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    if (shared == MAP_FAILED)
        exit(1);
    pid_t child = fork();
    if (child == 0) {
        *shared = round_ns(api, start, 1);
        _exit(0);
    }
    waitpid(child, NULL, 0);
    double result = *shared;
    munmap(shared, sizeof(double));
    return result;
}

static void report(const char *name, double *times[2], int rounds)
{
    qsort(times[0], (size_t)rounds, sizeof(double), by_value);
    qsort(times[1], (size_t)rounds, sizeof(double), by_value);
    printf("%s %.1f %.1f\n", name, times[0][rounds / 2], times[1][rounds / 2]);
}

int main(int count, char **arguments)
{
    if (count != 6)
        return 2;
    void *libraries[2] = {open_library(arguments[1]), open_library(arguments[2])};
    struct api shim = load(libraries[0]), direct = load(libraries[1]);
    int live = atoi(arguments[3]), rounds = atoi(arguments[4]), calls = atoi(arguments[5]);
    double *times[2] = {malloc(sizeof(double) * (size_t)rounds), malloc(sizeof(double) * (size_t)rounds)};
    handle_t context;
    uint64_t address;
    for (int round = 0; round < rounds; round++) {
        times[0][round] = start_ns(&direct);
        times[1][round] = start_ns(&shim);
    }
    report("cuInit", times, rounds);
    must(shim.init(0));
    must(shim.retain(&context, 0));
    must(shim.set_current(context));
    for (int index = 0; index < live; index++)
        must(shim.alloc(&address, SMALL_BYTES));
    for (size_t kind = 0; kind < sizeof(kinds) / sizeof(kinds[0]); kind++) {
        if (dlsym(libraries[1], kinds[kind].symbol) == NULL)
            continue;
        for (int round = 0; round < rounds; round++) {
            times[0][round] = round_ns(&direct, kinds[kind].run, calls);
            times[1][round] = round_ns(&shim, kinds[kind].run, calls);
        }
        report(kinds[kind].name, times, rounds);
    }
    return 0;
}

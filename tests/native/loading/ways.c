/*
 * ways WAY [DIRECTORY]: a CUDA program that finds the driver in one of the ways that there are, then allocates until it
 * is refused and asks NVML what it sees. One line each: init CODE, alloc MIB CODE, nvml CODE TOTAL USED (MiB).
 *
 *   needed       a dependency of the program; only in the build with LINKED
 *   soname | unversioned   dlopen("libcuda.so.1"), dlopen("libcuda.so")
 *   deepbind     with RTLD_DEEPBIND
 *   default | next         opened globally; dlsym(RTLD_DEFAULT), dlsym(RTLD_NEXT)
 *   dlvsym       as soname, but dlvsym() with a version that the library does not have; prints what the loader says
 *   namespace    dlmopen(LM_ID_NEWLM)
 *   absolute     DIRECTORY/libcuda.so.1
 *   routed       cuGetProcAddress
 *
 * Exit: 0; 3 there is no such library here; 4 it lacks a function.
 */
#include <dlfcn.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define MIB ((size_t)1 << 20)
#define CUDA_VERSION 12000

/* spelling, base name, parameters */
#define CUDA_API(API) \
    API(cuInit, cuInit, (unsigned)) \
    API(cuDeviceGet, cuDeviceGet, (int *, int)) \
    API(cuDevicePrimaryCtxRetain, cuDevicePrimaryCtxRetain, (void **, int)) \
    API(cuCtxSetCurrent, cuCtxSetCurrent, (void *)) \
    API(cuMemAlloc_v2, cuMemAlloc, (uint64_t *, size_t))

#define NVML_API(API) \
    API(nvmlInit_v2, , (void)) \
    API(nvmlDeviceGetHandleByIndex_v2, , (unsigned, void **)) \
    API(nvmlDeviceGetMemoryInfo, , (void *, unsigned long long *)) \
    API(nvmlShutdown, , (void))

#ifdef LINKED
#define DECLARE(name, base, parameters) \
    int name parameters; \
    static int(*const call_##name) parameters = name;
#else
#define DECLARE(name, base, parameters) static int(*call_##name) parameters;
#endif
CUDA_API(DECLARE)
NVML_API(DECLARE)
#undef DECLARE

#ifndef LINKED

struct way {
    const char *name, *cuda, *nvml;
    int flags;
};

static const struct way ways[] = {
    {"soname", "libcuda.so.1", "libnvidia-ml.so.1", RTLD_NOW},
    {"unversioned", "libcuda.so", "libnvidia-ml.so", RTLD_LAZY},
#ifdef RTLD_DEEPBIND
    {"deepbind", "libcuda.so.1", "libnvidia-ml.so.1", RTLD_NOW | RTLD_DEEPBIND},
    {"dlvsym", "libcuda.so.1", "libnvidia-ml.so.1", RTLD_NOW},
    {"namespace", "libcuda.so.1", "libnvidia-ml.so.1", RTLD_NOW},
#endif
    {"default", "libcuda.so.1", "libnvidia-ml.so.1", RTLD_NOW | RTLD_GLOBAL},
    {"next", "libcuda.so.1", "libnvidia-ml.so.1", RTLD_NOW | RTLD_GLOBAL},
    {"absolute", "libcuda.so.1", "libnvidia-ml.so.1", RTLD_NOW},
    {"routed", "libcuda.so.1", "libnvidia-ml.so.1", RTLD_NOW},
};

static const struct way *chosen;
static int (*route)(const char *, void **, int, uint64_t, int *);

static int is(const char *name)
{
    return strcmp(chosen->name, name) == 0;
}

static void *open_library(const char *name, const char *directory)
{
    char path[4096];
    void *library;
    snprintf(path, sizeof(path), "%s%s%s", is("absolute") ? directory : "", is("absolute") ? "/" : "", name);
#ifdef RTLD_DEEPBIND
    if (is("namespace"))
        library = dlmopen(LM_ID_NEWLM, path, chosen->flags);
    else
#endif
        library = dlopen(path, chosen->flags);
    if (library == NULL) {
        fprintf(stderr, "%s\n", dlerror());
        exit(3);
    }
    return library;
}

static void *find(void *library, const char *name, const char *base)
{
    void *found = NULL;
    int status;
    if (is("default"))
        found = dlsym(RTLD_DEFAULT, name);
    else if (is("next"))
        found = dlsym(RTLD_NEXT, name);
    else if (is("routed") && *base != '\0')
        route(base, &found, CUDA_VERSION, 0, &status);
#ifdef RTLD_DEEPBIND
    else if (is("dlvsym"))
        found = dlvsym(library, name, "GLIBC_2.17");
#endif
    else
        found = dlsym(library, name);
    if (found == NULL) {
        fprintf(stderr, "no %s\n", name);
        exit(4);
    }
    return found;
}

static void load(const char *name, const char *directory)
{
    for (size_t index = 0; index < sizeof(ways) / sizeof(ways[0]); index++) {
        if (strcmp(ways[index].name, name) == 0)
            chosen = &ways[index];
    }
    if (chosen == NULL)
        exit(2);
    void *library = open_library(chosen->cuda, directory);
    if (is("routed"))
        route = (int (*)(const char *, void **, int, uint64_t, int *))dlsym(library, "cuGetProcAddress_v2");
#define FIND(name, base, parameters) call_##name = (int(*) parameters)find(library, #name, #base);
    CUDA_API(FIND)
    library = open_library(chosen->nvml, directory);
    NVML_API(FIND)
#undef FIND
}

#else

static void load(const char *name, const char *directory)
{
    (void)directory;
    if (strcmp(name, "needed") != 0)
        exit(2);
}

#endif

static void allocate(size_t mib)
{
    uint64_t address = 0;
    printf("alloc %zu %d\n", mib, call_cuMemAlloc_v2(&address, mib * MIB));
}

static void ask_nvml(void)
{
    unsigned long long memory[3] = {0, 0, 0};
    void *device = NULL;
    int code = call_nvmlInit_v2();
    if (code == 0)
        code = call_nvmlDeviceGetHandleByIndex_v2(0, &device);
    if (code == 0)
        code = call_nvmlDeviceGetMemoryInfo(device, memory);
    printf("nvml %d %llu %llu\n", code, memory[0] / MIB, memory[2] / MIB);
    call_nvmlShutdown();
}

int main(int count, char **arguments)
{
    void *context = NULL;
    int device = 0;
    load(count > 1 ? arguments[1] : "", count > 2 ? arguments[2] : "");
    printf("init %d\n", call_cuInit(0));
    if (call_cuDeviceGet(&device, 0) == 0 && call_cuDevicePrimaryCtxRetain(&context, device) == 0)
        call_cuCtxSetCurrent(context);
    allocate(600);
    allocate(500);
    ask_nvml();
    allocate(424);
    return 0;
}

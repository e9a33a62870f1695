/*
 * restless.c: a libcuda.so.1 that does what drivers must be allowed to do: from inside cuInit and cuMemAlloc it calls
 * functions that it exports, by name, so that they may lead through the shim; and it opens NVML and asks it for the
 * memory. What it does not have itself it takes from the model, its only dependency.
 *
 * Not linked with -Bsymbolic, which NVIDIA's driver is: this is the harder case.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

int cuInit(unsigned flags);
static int own_allocate(uint64_t *address, size_t bytes);
int cuMemAlloc_v2(uint64_t *address, size_t bytes) __attribute__((alias("own_allocate")));
int cuGetProcAddress_v2(const char *name, void **function, int version, uint64_t flags, int *status);
int cuDriverGetVersion(int *version);
int cuDeviceTotalMem_v2(size_t *bytes, int device);
int cuMemGetInfo_v2(size_t *available, size_t *total);

static int ask_nvml(void)
{
    unsigned long long memory[3];
    void *device;
    void *library = dlopen("libnvidia-ml.so.1", RTLD_NOW);
    if (library == NULL)
        return 1;
    int (*start)(void) = (int (*)(void))dlsym(library, "nvmlInit_v2");
    int (*get)(unsigned, void **) = (int (*)(unsigned, void **))dlsym(library, "nvmlDeviceGetHandleByIndex_v2");
    int (*info)(void *, void *) = (int (*)(void *, void *))dlsym(library, "nvmlDeviceGetMemoryInfo");
    int (*stop)(void) = (int (*)(void))dlsym(library, "nvmlShutdown");
    return start() != 0 || get(0, &device) != 0 || info(device, memory) != 0 || stop() != 0;
}

int cuInit(unsigned flags)
{
    int version;
    size_t bytes;
    void *function;
    int status;
    int code = ((int (*)(unsigned))dlsym(RTLD_NEXT, "cuInit"))(flags);
    if (code != 0)
        return code;
    if (ask_nvml() != 0 || cuDriverGetVersion(&version) != 0 || cuDeviceTotalMem_v2(&bytes, 0) != 0)
        return 999;
    return cuGetProcAddress_v2("cuMemAlloc", &function, version, 0, &status) == 0 && function != NULL ? 0 : 999;
}

static int own_allocate(uint64_t *address, size_t bytes)
{
    size_t available, total;
    if (cuMemGetInfo_v2(&available, &total) != 0)
        return 999;
    return ((int (*)(uint64_t *, size_t))dlsym(RTLD_NEXT, "cuMemAlloc_v2"))(address, bytes);
}

int cuGetProcAddress_v2(const char *name, void **function, int version, uint64_t flags, int *status)
{
    typedef int lookup(const char *, void **, int, uint64_t, int *);
    int code = ((lookup *)dlsym(RTLD_NEXT, "cuGetProcAddress_v2"))(name, function, version, flags, status);
    /* Its own address and not what the name leads to from here: a driver hands out what it exports. */
    if (code == 0 && strcmp(name, "cuMemAlloc") == 0)
        *function = (void *)own_allocate;
    return code;
}

/* driver_api.h: what the test programs call, looked up as a real program does: by name in libcuda.so.1. */
#ifndef TESTS_DRIVER_API_H
#define TESTS_DRIVER_API_H

#include <dlfcn.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define MIB ((size_t)1 << 20)
#define SENTINEL 0x5e5e5e5eu
#define OUT_OF_MEMORY 2
#define SYSTEM_NOT_READY 802

typedef void *handle_t;

struct location {
    int type, id;
};

struct allocation_prop {
    int type, handle_types;
    struct location location;
    void *reserved;
    unsigned char flags[8];
};

struct pool_props {
    int type, handle_types;
    struct location location;
    void *reserved;
    size_t max_size;
    unsigned char rest[56];
};

struct ipc_handle {
    unsigned char bytes[64];
};

/* name, parameters */
#define DRIVER_API(API) \
    API(cuInit, (unsigned)) \
    API(cuDeviceGet, (int *, int)) \
    API(cuDevicePrimaryCtxRetain, (handle_t *, int)) \
    API(cuCtxSetCurrent, (handle_t)) \
    API(cuCtxCreate, (handle_t *, unsigned, int)) \
    API(cuCtxCreate_v2, (handle_t *, unsigned, int)) \
    API(cuCtxCreate_v3, (handle_t *, void *, int, unsigned, int)) \
    API(cuCtxCreate_v4, (handle_t *, void *, unsigned, int)) \
    API(cuCtxAttach, (handle_t *, unsigned)) \
    API(cuCtxDetach, (handle_t)) \
    API(cuCtxDestroy, (handle_t)) \
    API(cuCtxDestroy_v2, (handle_t)) \
    API(cuDevicePrimaryCtxRelease, (int)) \
    API(cuDevicePrimaryCtxRelease_v2, (int)) \
    API(cuDevicePrimaryCtxReset, (int)) \
    API(cuDevicePrimaryCtxReset_v2, (int)) \
    API(cuDeviceGetDevResource, (int, void *, int)) \
    API(cuDevResourceGenerateDesc, (handle_t *, void *, unsigned)) \
    API(cuCtxSetLimit, (int, size_t)) \
    API(cuModuleLoad, (handle_t *, const char *)) \
    API(cuModuleLoadData, (handle_t *, const void *)) \
    API(cuModuleLoadDataEx, (handle_t *, const void *, unsigned, int *, void **)) \
    API(cuModuleLoadFatBinary, (handle_t *, const void *)) \
    API(cuModuleUnload, (handle_t)) \
    API(cuLibraryLoadData, (handle_t *, const void *, int *, void **, unsigned, int *, void **, unsigned)) \
    API(cuLibraryLoadFromFile, (handle_t *, const char *, int *, void **, unsigned, int *, void **, unsigned)) \
    API(cuLibraryUnload, (handle_t)) \
    API(cuGreenCtxCreate, (handle_t *, handle_t, int, unsigned)) \
    API(cuGreenCtxDestroy, (handle_t)) \
    API(cuCtxFromGreenCtx, (handle_t *, handle_t)) \
    API(cuCtxSynchronize, (void)) \
    API(cuCtxSynchronize_v2, (handle_t)) \
    API(cuMemAlloc, (unsigned *, unsigned)) \
    API(cuMemAlloc_v2, (uint64_t *, size_t)) \
    API(cuMemAllocPitch, (unsigned *, unsigned *, unsigned, unsigned, unsigned)) \
    API(cuMemAllocPitch_v2, (uint64_t *, size_t *, size_t, size_t, unsigned)) \
    API(cuMemAllocManaged, (uint64_t *, size_t, unsigned)) \
    API(cuMemAllocAsync, (uint64_t *, size_t, handle_t)) \
    API(cuMemAllocAsync_ptsz, (uint64_t *, size_t, handle_t)) \
    API(cuMemAllocFromPoolAsync, (uint64_t *, size_t, handle_t, handle_t)) \
    API(cuMemAllocFromPoolAsync_ptsz, (uint64_t *, size_t, handle_t, handle_t)) \
    API(cuArrayCreate, (handle_t *, const void *)) \
    API(cuArrayCreate_v2, (handle_t *, const void *)) \
    API(cuArray3DCreate, (handle_t *, const void *)) \
    API(cuArray3DCreate_v2, (handle_t *, const void *)) \
    API(cuArrayDestroy, (handle_t)) \
    API(cuMipmappedArrayCreate, (handle_t *, const void *, unsigned)) \
    API(cuMipmappedArrayGetLevel, (handle_t *, handle_t, unsigned)) \
    API(cuMipmappedArrayDestroy, (handle_t)) \
    API(cuMemMapArrayAsync, (void *, unsigned, handle_t)) \
    API(cuMemMapArrayAsync_ptsz, (void *, unsigned, handle_t)) \
    API(cuMemAllocHost, (void **, unsigned)) \
    API(cuMemAllocHost_v2, (void **, size_t)) \
    API(cuMemHostAlloc, (void **, size_t, unsigned)) \
    API(cuMemHostRegister, (void *, size_t, unsigned)) \
    API(cuMemHostRegister_v2, (void *, size_t, unsigned)) \
    API(cuMemFreeHost, (void *)) \
    API(cuMemHostUnregister, (void *)) \
    API(cuMemFree, (unsigned)) \
    API(cuMemFree_v2, (uint64_t)) \
    API(cuMemFreeAsync, (uint64_t, handle_t)) \
    API(cuMemFreeAsync_ptsz, (uint64_t, handle_t)) \
    API(cuMemCreate, (uint64_t *, size_t, const struct allocation_prop *, uint64_t)) \
    API(cuMemRelease, (uint64_t)) \
    API(cuMemAddressReserve, (uint64_t *, size_t, size_t, uint64_t, uint64_t)) \
    API(cuMemAddressFree, (uint64_t, size_t)) \
    API(cuMemMap, (uint64_t, size_t, size_t, uint64_t, uint64_t)) \
    API(cuMemUnmap, (uint64_t, size_t)) \
    API(cuMemRetainAllocationHandle, (uint64_t *, void *)) \
    API(cuMemExportToShareableHandle, (void *, uint64_t, int, uint64_t)) \
    API(cuMemImportFromShareableHandle, (uint64_t *, void *, int)) \
    API(cuIpcGetMemHandle, (struct ipc_handle *, uint64_t)) \
    API(cuIpcOpenMemHandle, (uint64_t *, struct ipc_handle, unsigned)) \
    API(cuIpcOpenMemHandle_v2, (uint64_t *, struct ipc_handle, unsigned)) \
    API(cuIpcCloseMemHandle, (uint64_t)) \
    API(cuMemPoolExportToShareableHandle, (void *, handle_t, int, uint64_t)) \
    API(cuMemPoolImportFromShareableHandle, (handle_t *, void *, int, uint64_t)) \
    API(cuMemPoolExportPointer, (struct ipc_handle *, uint64_t)) \
    API(cuMemPoolImportPointer, (uint64_t *, handle_t, struct ipc_handle *)) \
    API(cuMemPoolCreate, (handle_t *, const struct pool_props *)) \
    API(cuMemPoolDestroy, (handle_t)) \
    API(cuMemPoolTrimTo, (handle_t, size_t)) \
    API(cuMemPoolSetAttribute, (handle_t, int, void *)) \
    API(cuMemPoolGetAttribute, (handle_t, int, void *)) \
    API(cuDeviceGetMemPool, (handle_t *, int)) \
    API(cuDeviceGetDefaultMemPool, (handle_t *, int)) \
    API(cuGraphCreate, (handle_t *, unsigned)) \
    API(cuGraphAddMemAllocNode, (handle_t *, handle_t, const handle_t *, size_t, void *)) \
    API(cuGraphAddMemFreeNode, (handle_t *, handle_t, const handle_t *, size_t, uint64_t)) \
    API(cuGraphInstantiate, (handle_t *, handle_t, handle_t *, char *, size_t)) \
    API(cuGraphInstantiate_v2, (handle_t *, handle_t, handle_t *, char *, size_t)) \
    API(cuGraphInstantiateWithFlags, (handle_t *, handle_t, unsigned long long)) \
    API(cuGraphInstantiateWithParams, (handle_t *, handle_t, void *)) \
    API(cuGraphInstantiateWithParams_ptsz, (handle_t *, handle_t, void *)) \
    API(cuGraphUpload, (handle_t, handle_t)) \
    API(cuGraphUpload_ptsz, (handle_t, handle_t)) \
    API(cuGraphLaunch, (handle_t, handle_t)) \
    API(cuGraphLaunch_ptsz, (handle_t, handle_t)) \
    API(cuGraphExecDestroy, (handle_t)) \
    API(cuDeviceGraphMemTrim, (int)) \
    API(cuStreamCreate, (handle_t *, unsigned)) \
    API(cuStreamBeginCapture_v2, (handle_t, int)) \
    API(cuStreamEndCapture, (handle_t, handle_t *)) \
    API(cuStreamSynchronize, (handle_t)) \
    API(cuStreamSynchronize_ptsz, (handle_t)) \
    API(cuEventCreate, (handle_t *, unsigned)) \
    API(cuEventRecord, (handle_t, handle_t)) \
    API(cuEventSynchronize, (handle_t)) \
    API(cuMemGetInfo, (unsigned *, unsigned *)) \
    API(cuMemGetInfo_v2, (size_t *, size_t *)) \
    API(cuDeviceTotalMem, (unsigned *, int)) \
    API(cuDeviceTotalMem_v2, (size_t *, int)) \
    API(cuGetProcAddress, (const char *, void **, int, uint64_t)) \
    API(cuGetProcAddress_v2, (const char *, void **, int, uint64_t, int *)) \
    API(cuGetProcAddress_v2_ptsz, (const char *, void **, int, uint64_t, int *)) \
    API(cuDriverGetVersion, (int *))

/* Weak: the files of one program share one set of pointers. */
#define DECLARE(name, parameters) __attribute__((weak, visibility("hidden"))) int(*name) parameters;
DRIVER_API(DECLARE)
#undef DECLARE

/* What is called instead of a function that neither the shim nor the driver has. */
#define LACKING(name, parameters) \
    __attribute__((unused)) static int lacking_##name(void) \
    { \
        fprintf(stderr, "no %s\n", #name); \
        exit(4); \
    }
DRIVER_API(LACKING)
#undef LACKING

static void *driver_library;

static inline void load_driver(void)
{
    driver_library = dlopen("libcuda.so.1", RTLD_NOW | RTLD_LOCAL);
    if (driver_library == NULL) {
        fprintf(stderr, "%s\n", dlerror());
        exit(4);
    }
#define LOAD(name, parameters) \
    name = (int(*) parameters)dlsym(driver_library, #name); \
    if (name == NULL) \
        name = (int(*) parameters)(void *)lacking_##name;
    DRIVER_API(LOAD)
#undef LOAD
}

/* A context on `device`, made current. */
static inline void use_device(int device)
{
    handle_t context;
    int ordinal;
    if (cuDeviceGet(&ordinal, device) != 0 || cuDevicePrimaryCtxRetain(&context, ordinal) != 0 ||
        cuCtxSetCurrent(context) != 0) {
        fprintf(stderr, "no context on device %d\n", device);
        exit(4);
    }
}

#define CHECK(condition) \
    do { \
        if (!(condition)) { \
            fprintf(stderr, "%s:%d: %s\n", __FILE__, __LINE__, #condition); \
            exit(1); \
        } \
    } while (0)

#endif

/* host.c: pinned host memory. It is counted nowhere: it is not device memory. */
#define _GNU_SOURCE
#include "driver.h"

#include <sys/mman.h>
#include <unistd.h>

#define HOST_ALLOC_FLAGS 7u               /* portable, device map, write combined */
#define REGISTER_FLAGS 15u                /* portable, device map, I/O memory, read only */

static CUresult allocate(void **out, size_t size, unsigned flags)
{
    NOT_NULL(out);
    REQUIRE(size > 0 && (flags & ~HOST_ALLOC_FLAGS) == 0, CUDA_ERROR_INVALID_VALUE);
    REQUIRE(size <= SIZE_MAX / 2, CUDA_ERROR_OUT_OF_MEMORY);
    CUcontext context;
    TRY(context_current(&context));
    size_t page = (size_t)sysconf(_SC_PAGESIZE);
    struct range range = { .size = size, .kind = RANGE_HOST, .device = -1, .context = context, .flags = flags };
    range.reserved = ROUND_UP(size, page);
    range.bytes = backing_map(range.reserved);
    REQUIRE(range.bytes != NULL, CUDA_ERROR_OUT_OF_MEMORY);
    range.start = (CUdeviceptr)(uintptr_t)range.bytes;
    CUresult rc = range_insert(&range);
    if (rc != CUDA_SUCCESS) {
        backing_unmap(range.bytes, range.reserved);
        return rc;
    }
    *out = range.bytes;
    return CUDA_SUCCESS;
}

static CUresult release(void *pointer)
{
    CUcontext context;
    TRY(context_current(&context));
    struct range *range = range_at((CUdeviceptr)(uintptr_t)pointer);
    REQUIRE(range != NULL && range->kind == RANGE_HOST && range->bytes == pointer, CUDA_ERROR_INVALID_VALUE);
    return memory_release(range);
}

static CUresult add(void *pointer, size_t size, unsigned flags)
{
    CUcontext context;
    TRY(context_current(&context));
    REQUIRE(pointer != NULL && size > 0 && (flags & ~REGISTER_FLAGS) == 0, CUDA_ERROR_INVALID_VALUE);
    CUdeviceptr start = (CUdeviceptr)(uintptr_t)pointer;
    REQUIRE(!range_overlaps(start, size), CUDA_ERROR_HOST_MEMORY_ALREADY_REGISTERED);
    struct range range = { .start = start, .size = size, .kind = RANGE_REGISTERED, .device = -1, .context = context,
                           .bytes = pointer, .flags = flags };
    return range_insert(&range);
}

static CUresult remove_registration(void *pointer)
{
    CUcontext context;
    TRY(context_current(&context));
    struct range *range = range_at((CUdeviceptr)(uintptr_t)pointer);
    REQUIRE(range != NULL && range->kind == RANGE_REGISTERED && range->bytes == pointer,
            CUDA_ERROR_HOST_MEMORY_NOT_REGISTERED);
    range_remove(range->start);
    return CUDA_SUCCESS;
}

static struct range *host_range(void *pointer)
{
    struct range *range = range_at((CUdeviceptr)(uintptr_t)pointer);
    return range != NULL && range->device == -1 ? range : NULL;
}

static CUresult device_pointer(CUdeviceptr *out, void *pointer, unsigned flags)
{
    NOT_NULL(out);
    REQUIRE(flags == 0 && host_range(pointer) != NULL, CUDA_ERROR_INVALID_VALUE);
    *out = (CUdeviceptr)(uintptr_t)pointer;
    return CUDA_SUCCESS;
}

static CUresult get_flags(unsigned *out, void *pointer)
{
    NOT_NULL(out);
    struct range *range = host_range(pointer);
    REQUIRE(range != NULL, CUDA_ERROR_INVALID_VALUE);
    *out = range->flags | 2u;             /* under unified addressing all of it is mapped */
    return CUDA_SUCCESS;
}

CUAPI CUresult cuMemAllocHost(void **out, unsigned size) { DRIVER_CALL(allocate(out, size, 0)); }
CUAPI CUresult cuMemAllocHost_v2(void **out, size_t size) { DRIVER_CALL(allocate(out, size, 0)); }
CUAPI CUresult cuMemHostAlloc(void **out, size_t size, unsigned flags) { DRIVER_CALL(allocate(out, size, flags)); }
CUAPI CUresult cuMemFreeHost(void *pointer) { DRIVER_CALL(release(pointer)); }
CUAPI CUresult cuMemHostRegister(void *p, size_t size, unsigned flags) { DRIVER_CALL(add(p, size, flags)); }
CUAPI CUresult cuMemHostRegister_v2(void *p, size_t size, unsigned flags) { DRIVER_CALL(add(p, size, flags)); }
CUAPI CUresult cuMemHostUnregister(void *pointer) { DRIVER_CALL(remove_registration(pointer)); }
CUAPI CUresult cuMemHostGetDevicePointer_v2(CUdeviceptr *out, void *p, unsigned flags)
{
    DRIVER_CALL(device_pointer(out, p, flags));
}
CUAPI CUresult cuMemHostGetFlags(unsigned *out, void *pointer) { DRIVER_CALL(get_flags(out, pointer)); }

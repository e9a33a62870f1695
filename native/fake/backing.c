/*
 * backing.c: addresses that programs hold, and the bytes behind them.
 *
 * The two are apart, as they are on a GPU: a device pointer is an inaccessible reservation, so a CPU that follows it
 * faults, and the same bytes can be mapped at several addresses. The bytes lie in memory without swap reservation:
 * a modelled 256 MiB costs nothing until something is written there.
 */
#define _GNU_SOURCE
#include "driver.h"

#include <sys/mman.h>

#define LOW_FIRST UINT64_C(0x20000000)
#define LOW_STEP UINT64_C(0x4000000)
#define LOW_END (UINT64_C(1) << 32)

static void *reserve(void *hint, size_t size)
{
    void *p = mmap(hint, size, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    return p == MAP_FAILED ? NULL : p;
}

CUresult address_reserve(size_t size, size_t alignment, uint64_t hint, CUdeviceptr *address)
{
    REQUIRE(size <= SIZE_MAX - alignment, CUDA_ERROR_OUT_OF_MEMORY);
    if (hint != 0 && hint % alignment == 0) {
        void *wished = reserve((void *)(uintptr_t)hint, size);
        if (wished == (void *)(uintptr_t)hint) {
            *address = hint;
            return CUDA_SUCCESS;
        }
        if (wished != NULL) {
            munmap(wished, size);
        }
    }
    uint8_t *raw = reserve(NULL, size + alignment);
    REQUIRE(raw != NULL, CUDA_ERROR_OUT_OF_MEMORY);
    size_t skip = (size_t)(-(uintptr_t)raw) & (alignment - 1);
    if (skip != 0) {
        munmap(raw, skip);
    }
    munmap(raw + skip + size, alignment - skip);
    *address = (CUdeviceptr)(uintptr_t)(raw + skip);
    return CUDA_SUCCESS;
}

CUresult address_reserve_low(size_t size, CUdeviceptr *address)
{
    for (uint64_t hint = LOW_FIRST; hint + size < LOW_END; hint += LOW_STEP) {
        void *p = reserve((void *)(uintptr_t)hint, size);
        if (p != NULL && (uintptr_t)p + size < LOW_END) {
            *address = (CUdeviceptr)(uintptr_t)p;
            return CUDA_SUCCESS;
        }
        if (p != NULL) {
            munmap(p, size);
        }
    }
    return CUDA_ERROR_OUT_OF_MEMORY;
}

void address_release(CUdeviceptr address, size_t size)
{
    munmap((void *)(uintptr_t)address, size);
}

uint8_t *backing_map(size_t size)
{
    void *p = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (p == MAP_FAILED) {
        return NULL;
    }
    madvise(p, size, MADV_DONTDUMP);
    return p;
}

void backing_unmap(uint8_t *bytes, size_t size)
{
    munmap(bytes, size);
}

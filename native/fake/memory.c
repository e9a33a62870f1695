/* memory.c: device, pitched and managed memory, and what the driver says about amounts and addresses. */
#define _GNU_SOURCE
#include "graph.h"
#include "share.h"

#include <stdlib.h>
#include <sys/mman.h>

#define SLAB_LIMIT MIB                    /* smaller requests share pieces of one granule */

static CUresult allocate_small(CUcontext context, struct range *range)
{
    size_t offset;
    struct segment *slab = context->slabs;
    while (slab != NULL && !segment_take(slab, range->size, &offset)) {
        slab = slab->next;
    }
    if (slab == NULL) {
        TRY(segment_create(context->device, PHYSICAL_GRANULE, &slab));
        slab->next = context->slabs;
        context->slabs = slab;
        REQUIRE(segment_take(slab, range->size, &offset), CUDA_ERROR_OUT_OF_MEMORY);
    }
    range->start = slab->start + offset;
    range->bytes = slab->bytes + offset;
    range->segment = slab;
    return CUDA_SUCCESS;
}

static CUresult back(struct range *range, bool low)
{
    range->bytes = backing_map(range->reserved);
    REQUIRE(range->bytes != NULL, CUDA_ERROR_OUT_OF_MEMORY);
    CUresult rc = low ? address_reserve_low(range->reserved, &range->start)
                      : address_reserve(range->reserved, PHYSICAL_GRANULE, 0, &range->start);
    if (rc != CUDA_SUCCESS) {
        backing_unmap(range->bytes, range->reserved);
    }
    return rc;
}

static CUresult allocate_large(CUcontext context, struct range *range, bool low)
{
    REQUIRE(range->size <= SIZE_MAX / 2, CUDA_ERROR_OUT_OF_MEMORY);
    range->reserved = range->charged = ROUND_UP(range->size, PHYSICAL_GRANULE);
    TRY(device_charge(context->device, range->charged));
    CUresult rc = back(range, low);
    if (rc != CUDA_SUCCESS) {
        device_discharge(context->device, range->charged);
    }
    return rc;
}

CUresult memory_take(struct range *range)
{
    return range->size <= SLAB_LIMIT ? allocate_small(range->context, range)
                                     : allocate_large(range->context, range, false);
}

static CUresult allocate(CUdeviceptr *out, size_t size, bool low)
{
    NOT_NULL(out);
    REQUIRE(size > 0, CUDA_ERROR_INVALID_VALUE);
    CUcontext context;
    TRY(context_current(&context));
    struct range range = { .size = size, .kind = RANGE_DEVICE, .device = context->device, .context = context };
    TRY(low ? allocate_large(context, &range, low) : memory_take(&range));
    CUresult rc = range_insert(&range);
    if (rc != CUDA_SUCCESS) {
        memory_release(&range);
        return rc;
    }
    *out = range.start;
    return CUDA_SUCCESS;
}

static CUresult allocate32(CUdeviceptr32 *out, unsigned size)
{
    NOT_NULL(out);
    CUdeviceptr address;
    TRY(allocate(&address, size, true));
    *out = (CUdeviceptr32)address;
    return CUDA_SUCCESS;
}

static CUresult allocate_pitch(CUdeviceptr *out, size_t *pitch, size_t width, size_t height, unsigned element, bool low)
{
    NOT_NULL(out);
    NOT_NULL(pitch);
    REQUIRE(width > 0 && height > 0, CUDA_ERROR_INVALID_VALUE);
    REQUIRE(element == 4 || element == 8 || element == 16, CUDA_ERROR_INVALID_VALUE);
    REQUIRE(width <= SIZE_MAX / 2 / height - ALIGNMENT, CUDA_ERROR_OUT_OF_MEMORY);
    size_t row = ROUND_UP(width, ALIGNMENT);
    TRY(allocate(out, row * height, low));
    *pitch = row;
    return CUDA_SUCCESS;
}

static CUresult allocate_pitch32(CUdeviceptr32 *out, unsigned *pitch, unsigned width, unsigned height, unsigned element)
{
    NOT_NULL(out);
    NOT_NULL(pitch);
    CUdeviceptr address;
    size_t row;
    TRY(allocate_pitch(&address, &row, width, height, element, true));
    *out = (CUdeviceptr32)address;
    *pitch = (unsigned)row;
    return CUDA_SUCCESS;
}

/* Managed memory starts on the host: the device is charged when it first touches it (memory_migrate). */
static CUresult allocate_managed(CUdeviceptr *out, size_t size, unsigned flags)
{
    NOT_NULL(out);
    REQUIRE(size > 0 && (flags == CU_ATTACH_GLOBAL || flags == CU_ATTACH_HOST), CUDA_ERROR_INVALID_VALUE);
    REQUIRE(size <= SIZE_MAX / 2, CUDA_ERROR_OUT_OF_MEMORY);
    CUcontext context;
    TRY(context_current(&context));
    struct range range = { .size = size, .kind = RANGE_MANAGED, .device = context->device, .context = context };
    range.reserved = ROUND_UP(size, PHYSICAL_GRANULE);
    TRY(address_reserve(range.reserved, PHYSICAL_GRANULE, 0, &range.start));
    range.bytes = (uint8_t *)(uintptr_t)range.start;
    CUresult rc = mprotect(range.bytes, range.reserved, PROT_READ | PROT_WRITE) == 0 ? range_insert(&range)
                                                                                     : CUDA_ERROR_OUT_OF_MEMORY;
    if (rc != CUDA_SUCCESS) {
        address_release(range.start, range.reserved);
        return rc;
    }
    *out = range.start;
    return CUDA_SUCCESS;
}

void memory_migrate(struct range *range, int device)
{
    if (range->charged != 0) {
        if (range->device == device) {
            return;
        }
        device_discharge(range->device, range->charged);
        range->charged = 0;
    }
    range->device = device;
    if (device_charge(device, range->reserved) == CUDA_SUCCESS) {
        range->charged = range->reserved;
    }
}

static void leave_slab(struct range *range)
{
    struct segment *slab = range->segment;
    segment_give(slab, (size_t)(range->start - slab->start));
    if (slab->used != 0) {
        return;
    }
    struct segment **link = &range->context->slabs;
    while (*link != slab) {
        link = &(*link)->next;
    }
    *link = slab->next;
    segment_destroy(slab);
}

/* Give back what a range of memory holds and forget it. The range may lie in the table: do not use it after. */
CUresult memory_release(struct range *range)
{
    CUdeviceptr start = range->start;
    if (range->kind == RANGE_IMPORTED) {
        ipc_release(range);
        return CUDA_SUCCESS;
    }
    if (range->kind == RANGE_GRAPH) {
        graph_memory_end(range);
    } else if (range->kind == RANGE_POOL) {
        pool_free(range);
    } else if (range->segment != NULL) {
        leave_slab(range);
    } else {
        if (range->share != NULL) {
            share_drop(range->share);
        } else if (range->bytes != (uint8_t *)(uintptr_t)start) {
            backing_unmap(range->bytes, range->reserved);
        }
        address_release(start, range->reserved);
        if (range->charged != 0) {
            device_discharge(range->device, range->charged);
        }
    }
    range_remove(start);
    return CUDA_SUCCESS;
}

void memory_release_context(CUcontext context)
{
    for (int i = range_count() - 1; i >= 0; i--) {
        struct range *range = range_by_index(i);
        if (range->context != context || range->kind == RANGE_MAPPING || range->kind == RANGE_POOL ||
            range->kind == RANGE_GRAPH) {
            continue;
        }
        if (range->kind == RANGE_REGISTERED) {
            range_remove(range->start);
        } else {
            memory_release(range);
        }
    }
}

static CUresult release(CUdeviceptr address)
{
    CUcontext context;
    TRY(context_current(&context));
    if (address == 0) {
        return CUDA_SUCCESS;
    }
    struct range *range = range_at(address);
    REQUIRE(range != NULL && range->start == address, CUDA_ERROR_INVALID_VALUE);
    bool from_pool = range->kind == RANGE_IMPORTED && range->pool != NULL;
    REQUIRE(range->kind == RANGE_DEVICE || range->kind == RANGE_POOL || range->kind == RANGE_MANAGED ||
            range->kind == RANGE_GRAPH || from_pool, CUDA_ERROR_INVALID_VALUE);
    bool pooled = range->kind == RANGE_POOL;
    TRY(memory_release(range));
    if (pooled) {
        pools_synchronize();              /* unlike cuMemFreeAsync this is a synchronisation */
    }
    return CUDA_SUCCESS;
}

static CUresult get_info(uint64_t *free_bytes, uint64_t *total_bytes)
{
    int device;
    TRY(context_current_device(&device));
    uint64_t free_now, total;
    TRY(device_memory(device, &free_now, &total));
    if (free_bytes != NULL) {
        *free_bytes = free_now;
    }
    if (total_bytes != NULL) {
        *total_bytes = total;
    }
    return CUDA_SUCCESS;
}

static unsigned clamp32(uint64_t value)
{
    return value < UINT32_MAX ? (unsigned)value : UINT32_MAX;
}

static CUresult get_info32(unsigned *free_bytes, unsigned *total_bytes)
{
    uint64_t free_now, total;
    TRY(get_info(&free_now, &total));
    if (free_bytes != NULL) {
        *free_bytes = clamp32(free_now);
    }
    if (total_bytes != NULL) {
        *total_bytes = clamp32(total);
    }
    return CUDA_SUCCESS;
}

static CUresult get_range(CUdeviceptr *base, size_t *size, CUdeviceptr address)
{
    struct range *range = range_at(address);
    REQUIRE(range != NULL && range->kind != RANGE_REGISTERED, CUDA_ERROR_NOT_FOUND);
    if (base != NULL) {
        *base = range->start;
    }
    if (size != NULL) {
        *size = range->size;
    }
    return CUDA_SUCCESS;
}

static CUresult get_range32(CUdeviceptr32 *base, unsigned *size, CUdeviceptr32 address)
{
    CUdeviceptr start;
    size_t bytes;
    TRY(get_range(&start, &bytes, address));
    if (base != NULL) {
        *base = (CUdeviceptr32)start;
    }
    if (size != NULL) {
        *size = clamp32(bytes);
    }
    return CUDA_SUCCESS;
}

CUAPI CUresult cuMemAlloc(CUdeviceptr32 *out, unsigned size) { DRIVER_CALL(allocate32(out, size)); }
CUAPI CUresult cuMemAlloc_v2(CUdeviceptr *out, size_t size) { DRIVER_CALL(allocate(out, size, false)); }
CUAPI CUresult cuMemAllocPitch(CUdeviceptr32 *out, unsigned *pitch, unsigned width, unsigned height, unsigned element)
{
    DRIVER_CALL(allocate_pitch32(out, pitch, width, height, element));
}
CUAPI CUresult cuMemAllocPitch_v2(CUdeviceptr *out, size_t *pitch, size_t width, size_t height, unsigned element)
{
    DRIVER_CALL(allocate_pitch(out, pitch, width, height, element, false));
}
CUAPI CUresult cuMemAllocManaged(CUdeviceptr *out, size_t s, unsigned f) { DRIVER_CALL(allocate_managed(out, s, f)); }
CUAPI CUresult cuMemFree(CUdeviceptr32 address) { DRIVER_CALL(release(address)); }
CUAPI CUresult cuMemFree_v2(CUdeviceptr address) { DRIVER_CALL(release(address)); }
CUAPI CUresult cuMemGetInfo(unsigned *f, unsigned *t) { DRIVER_CALL(get_info32(f, t)); }
CUAPI CUresult cuMemGetInfo_v2(uint64_t *f, uint64_t *t) { DRIVER_CALL(get_info(f, t)); }
CUAPI CUresult cuMemGetAddressRange(CUdeviceptr32 *base, unsigned *size, CUdeviceptr32 address)
{
    DRIVER_CALL(get_range32(base, size, address));
}
CUAPI CUresult cuMemGetAddressRange_v2(CUdeviceptr *base, size_t *size, CUdeviceptr address)
{
    DRIVER_CALL(get_range(base, size, address));
}

#include "pool.h"
/*
 * pool.c: stream-ordered memory. A pool reserves device memory in pieces of GROWTH and hands parts of them out; what
 * is freed stays reserved until a synchronisation or a trim finds whole pieces unused above the release threshold.
 */
#include "capture.h"

#include <stdlib.h>

#define GROWTH (32 * MIB)

static CUmemoryPool pools;

bool pool_handle_known(CUmemoryPool pool)
{
    for (CUmemoryPool known = pools; known != NULL; known = known->next) {
        if (known == pool) {
            return !known->destroyed;
        }
    }
    return false;
}

CUresult pool_create(const struct fake_pool *content, CUmemoryPool *out)
{
    static uint32_t last_number;
    CUmemoryPool pool = malloc(sizeof *pool);
    REQUIRE(pool != NULL, CUDA_ERROR_OUT_OF_MEMORY);
    *pool = *content;
    pool->next = pools;
    if (!pool->imported) {
        pool->number = ++last_number;
    }
    pools = pool;
    *out = pool;
    return CUDA_SUCCESS;
}

static CUresult create_on(CUmemoryPool *out, int device, size_t max_size, int handle_types, bool is_default)
{
    return pool_create(&(struct fake_pool){ .device = device, .is_default = is_default, .max_size = max_size,
                                            .handle_types = handle_types, .reuse = { 1, 1, 1 } }, out);
}

static CUresult default_pool(CUmemoryPool *out, CUdevice ordinal)
{
    NOT_NULL(out);
    struct fake_device *device = device_at(ordinal);
    REQUIRE(device != NULL, CUDA_ERROR_INVALID_DEVICE);
    if (device->default_pool == NULL) {
        TRY(create_on(&device->default_pool, ordinal, 0, CU_HANDLE_NONE, true));
    }
    *out = device->default_pool;
    return CUDA_SUCCESS;
}

static CUresult current_pool(CUmemoryPool *out, CUdevice ordinal)
{
    NOT_NULL(out);
    struct fake_device *device = device_at(ordinal);
    REQUIRE(device != NULL, CUDA_ERROR_INVALID_DEVICE);
    if (device->current_pool == NULL) {
        return default_pool(out, ordinal);
    }
    *out = device->current_pool;
    return CUDA_SUCCESS;
}

static CUresult set_pool(CUdevice ordinal, CUmemoryPool pool)
{
    struct fake_device *device = device_at(ordinal);
    REQUIRE(device != NULL, CUDA_ERROR_INVALID_DEVICE);
    REQUIRE(pool_handle_known(pool) && pool->device == ordinal && !pool->imported, CUDA_ERROR_INVALID_VALUE);
    device->current_pool = pool;
    return CUDA_SUCCESS;
}

static CUresult create(CUmemoryPool *out, const CUmemPoolProps *properties)
{
    NOT_NULL(out);
    NOT_NULL(properties);
    REQUIRE(properties->alloc_type == 1, CUDA_ERROR_INVALID_VALUE);
    REQUIRE(properties->location.type == CU_LOCATION_DEVICE, CUDA_ERROR_NOT_SUPPORTED);
    REQUIRE((properties->handle_types & ~CU_HANDLE_FILE_DESCRIPTOR) == 0, CUDA_ERROR_NOT_SUPPORTED);
    REQUIRE(device_at(properties->location.id) != NULL, CUDA_ERROR_INVALID_DEVICE);
    return create_on(out, properties->location.id, properties->max_size, properties->handle_types, false);
}

/* Give back unused pieces until no more than `keep` bytes are reserved. */
static void trim(CUmemoryPool pool, uint64_t keep)
{
    struct segment **link = &pool->segments;
    while (*link != NULL && pool->reserved > keep) {
        struct segment *segment = *link;
        if (segment->used != 0) {
            link = &segment->next;
            continue;
        }
        *link = segment->next;
        pool->reserved -= segment->size;
        segment_destroy(segment);
    }
}

void pools_synchronize(void)
{
    for (CUmemoryPool pool = pools; pool != NULL; pool = pool->next) {
        trim(pool, pool->threshold);
    }
}

static CUresult grow(CUmemoryPool pool, size_t size, struct segment **out)
{
    REQUIRE(size <= SIZE_MAX / 2, CUDA_ERROR_OUT_OF_MEMORY);
    REQUIRE(pool->max_size == 0 || pool->reserved + size <= pool->max_size, CUDA_ERROR_OUT_OF_MEMORY);
    CUresult rc = segment_create(pool->device, ROUND_UP(size, GROWTH), out);
    if (rc == CUDA_ERROR_OUT_OF_MEMORY) {
        for (CUmemoryPool other = pools; other != NULL; other = other->next) {
            if (other->device == pool->device) {
                trim(other, 0);
            }
        }
        rc = segment_create(pool->device, ROUND_UP(size, GROWTH), out);
    }
    if (rc == CUDA_ERROR_OUT_OF_MEMORY) {
        rc = segment_create(pool->device, ROUND_UP(size, PHYSICAL_GRANULE), out);
    }
    REQUIRE(rc == CUDA_SUCCESS, rc);
    (*out)->next = pool->segments;
    pool->segments = *out;
    pool->reserved += (*out)->size;
    pool->reserved_high = pool->reserved > pool->reserved_high ? pool->reserved : pool->reserved_high;
    return CUDA_SUCCESS;
}

static CUresult allocate(CUdeviceptr *out, size_t size, CUmemoryPool pool)
{
    NOT_NULL(out);
    REQUIRE(size > 0 && pool_handle_known(pool), CUDA_ERROR_INVALID_VALUE);
    REQUIRE(!pool->imported, CUDA_ERROR_NOT_SUPPORTED);
    size_t offset;
    struct segment *segment = pool->segments;
    while (segment != NULL && !segment_take(segment, size, &offset)) {
        segment = segment->next;
    }
    if (segment == NULL) {
        TRY(grow(pool, size, &segment));
        REQUIRE(segment_take(segment, size, &offset), CUDA_ERROR_OUT_OF_MEMORY);
    }
    struct range range = { .start = segment->start + offset, .size = size, .kind = RANGE_POOL, .device = pool->device,
                           .bytes = segment->bytes + offset, .segment = segment, .pool = pool };
    CUresult rc = range_insert(&range);
    if (rc != CUDA_SUCCESS) {
        segment_give(segment, offset);
        return rc;
    }
    pool->used += ROUND_UP(size, ALIGNMENT);
    pool->used_high = pool->used > pool->used_high ? pool->used : pool->used_high;
    *out = range.start;
    return CUDA_SUCCESS;
}

static void dispose(CUmemoryPool pool)
{
    trim(pool, 0);
    CUmemoryPool *link = &pools;
    while (*link != pool) {
        link = &(*link)->next;
    }
    *link = pool->next;
    free(pool);
}

void pool_free(struct range *range)
{
    CUmemoryPool pool = range->pool;
    segment_give(range->segment, (size_t)(range->start - range->segment->start));
    pool->used -= ROUND_UP(range->size, ALIGNMENT);
    if (pool->destroyed && pool->used == 0) {
        dispose(pool);
    }
}

void pools_reset(int device)
{
    for (int i = range_count() - 1; i >= 0; i--) {
        struct range *range = range_by_index(i);
        if (range->kind == RANGE_POOL && range->device == device) {
            memory_release(range);
        }
    }
    for (CUmemoryPool pool = pools; pool != NULL; pool = pool->next) {
        if (pool->device == device) {
            trim(pool, 0);
        }
    }
}

static CUresult destroy(CUmemoryPool pool)
{
    REQUIRE(pool_handle_known(pool) && !pool->is_default, CUDA_ERROR_INVALID_VALUE);
    struct fake_device *device = device_at(pool->device);
    if (device->current_pool == pool) {
        device->current_pool = NULL;
    }
    pool->destroyed = true;
    if (pool->used == 0) {
        dispose(pool);
    }
    return CUDA_SUCCESS;
}

static CUresult trim_to(CUmemoryPool pool, size_t keep)
{
    REQUIRE(pool_handle_known(pool), CUDA_ERROR_INVALID_VALUE);
    trim(pool, keep);
    return CUDA_SUCCESS;
}

static CUresult get_attribute(CUmemoryPool pool, int attribute, void *value)
{
    NOT_NULL(value);
    REQUIRE(pool_handle_known(pool), CUDA_ERROR_INVALID_VALUE);
    REQUIRE(!pool->imported, CUDA_ERROR_INVALID_VALUE);
    switch (attribute) {
    case CU_POOL_REUSE_EVENT:
    case CU_POOL_REUSE_OPPORTUNISTIC:
    case CU_POOL_REUSE_INTERNAL:
        *(int *)value = pool->reuse[attribute - CU_POOL_REUSE_EVENT];
        return CUDA_SUCCESS;
    case CU_POOL_RELEASE_THRESHOLD:
        *(uint64_t *)value = pool->threshold;
        return CUDA_SUCCESS;
    case CU_POOL_RESERVED_CURRENT:
        *(uint64_t *)value = pool->reserved;
        return CUDA_SUCCESS;
    case CU_POOL_RESERVED_HIGH:
        *(uint64_t *)value = pool->reserved_high;
        return CUDA_SUCCESS;
    case CU_POOL_USED_CURRENT:
        *(uint64_t *)value = pool->used;
        return CUDA_SUCCESS;
    case CU_POOL_USED_HIGH:
        *(uint64_t *)value = pool->used_high;
        return CUDA_SUCCESS;
    default:
        return CUDA_ERROR_INVALID_VALUE;
    }
}

static CUresult set_attribute(CUmemoryPool pool, int attribute, const void *value)
{
    NOT_NULL(value);
    REQUIRE(pool_handle_known(pool), CUDA_ERROR_INVALID_VALUE);
    switch (attribute) {
    case CU_POOL_REUSE_EVENT:
    case CU_POOL_REUSE_OPPORTUNISTIC:
    case CU_POOL_REUSE_INTERNAL:
        pool->reuse[attribute - CU_POOL_REUSE_EVENT] = *(const int *)value != 0;
        return CUDA_SUCCESS;
    case CU_POOL_RELEASE_THRESHOLD:
        pool->threshold = *(const uint64_t *)value;
        return CUDA_SUCCESS;
    case CU_POOL_RESERVED_HIGH:           /* high-water marks can only be reset, to what is held now */
        REQUIRE(*(const uint64_t *)value == 0, CUDA_ERROR_INVALID_VALUE);
        pool->reserved_high = pool->reserved;
        return CUDA_SUCCESS;
    case CU_POOL_USED_HIGH:
        REQUIRE(*(const uint64_t *)value == 0, CUDA_ERROR_INVALID_VALUE);
        pool->used_high = pool->used;
        return CUDA_SUCCESS;
    default:
        return CUDA_ERROR_INVALID_VALUE;
    }
}

static CUresult set_access(CUmemoryPool pool, const CUmemAccessDesc *accesses, size_t count)
{
    REQUIRE(pool_handle_known(pool) && accesses != NULL && count > 0, CUDA_ERROR_INVALID_VALUE);
    for (size_t i = 0; i < count; i++) {
        REQUIRE(accesses[i].location.type == CU_LOCATION_DEVICE, CUDA_ERROR_INVALID_VALUE);
        REQUIRE(accesses[i].location.id == pool->device && accesses[i].flags == 3, CUDA_ERROR_INVALID_DEVICE);
    }
    return CUDA_SUCCESS;
}

static CUresult get_access(int *flags, CUmemoryPool pool, const CUmemLocation *location)
{
    NOT_NULL(flags);
    NOT_NULL(location);
    REQUIRE(pool_handle_known(pool) && location->type == CU_LOCATION_DEVICE, CUDA_ERROR_INVALID_VALUE);
    *flags = location->id == pool->device ? 3 : 0;
    return CUDA_SUCCESS;
}

/* The forms of CUDA 13 name a location instead of a device. */
static CUresult check_location(const CUmemLocation *location, int type)
{
    NOT_NULL(location);
    REQUIRE(location->type == CU_LOCATION_DEVICE && type == 1, CUDA_ERROR_NOT_SUPPORTED);
    return CUDA_SUCCESS;
}

static CUresult default_pool_at(CUmemoryPool *out, const CUmemLocation *location, int type)
{
    TRY(check_location(location, type));
    return default_pool(out, location->id);
}

static CUresult current_pool_at(CUmemoryPool *out, const CUmemLocation *location, int type)
{
    TRY(check_location(location, type));
    return current_pool(out, location->id);
}

static CUresult set_pool_at(const CUmemLocation *location, int type, CUmemoryPool pool)
{
    TRY(check_location(location, type));
    return set_pool(location->id, pool);
}

CUAPI CUresult cuMemGetDefaultMemPool(CUmemoryPool *out, CUmemLocation *location, int type)
{
    DRIVER_CALL(default_pool_at(out, location, type));
}
CUAPI CUresult cuMemGetMemPool(CUmemoryPool *p, CUmemLocation *l, int t) { DRIVER_CALL(current_pool_at(p, l, t)); }
CUAPI CUresult cuMemSetMemPool(CUmemLocation *l, int t, CUmemoryPool p) { DRIVER_CALL(set_pool_at(l, t, p)); }
CUAPI CUresult cuDeviceGetDefaultMemPool(CUmemoryPool *out, CUdevice d) { DRIVER_CALL(default_pool(out, d)); }
CUAPI CUresult cuDeviceGetMemPool(CUmemoryPool *out, CUdevice d) { DRIVER_CALL(current_pool(out, d)); }
CUAPI CUresult cuDeviceSetMemPool(CUdevice d, CUmemoryPool pool) { DRIVER_CALL(set_pool(d, pool)); }
CUAPI CUresult cuMemPoolCreate(CUmemoryPool *out, const CUmemPoolProps *p) { DRIVER_CALL(create(out, p)); }
CUAPI CUresult cuMemPoolDestroy(CUmemoryPool pool) { DRIVER_CALL(destroy(pool)); }
CUAPI CUresult cuMemPoolTrimTo(CUmemoryPool pool, size_t keep) { DRIVER_CALL(trim_to(pool, keep)); }
CUAPI CUresult cuMemPoolGetAttribute(CUmemoryPool p, int a, void *v) { DRIVER_CALL(get_attribute(p, a, v)); }
CUAPI CUresult cuMemPoolSetAttribute(CUmemoryPool p, int a, void *v) { DRIVER_CALL(set_attribute(p, a, v)); }
CUAPI CUresult cuMemPoolSetAccess(CUmemoryPool pool, const CUmemAccessDesc *accesses, size_t count)
{
    DRIVER_CALL(set_access(pool, accesses, count));
}
CUAPI CUresult cuMemPoolGetAccess(int *flags, CUmemoryPool pool, CUmemLocation *location)
{
    DRIVER_CALL(get_access(flags, pool, location));
}

/* On a stream that captures an allocation is a node, whose memory is the graph's and not the pool's. */
static CUresult allocate_on(CUdeviceptr *out, size_t size, CUmemoryPool pool, CUstream stream)
{
    bool captured;
    NOT_NULL(out);
    REQUIRE(size > 0 && pool_handle_known(pool), CUDA_ERROR_INVALID_VALUE);
    struct work work = { .type = NODE_ALLOC, .alloc = { .size = size } };
    work.alloc.properties = (CUmemPoolProps){ .alloc_type = 1, .location = { CU_LOCATION_DEVICE, pool->device } };
    TRY(capture_work(stream, &work, &captured));
    if (!captured) {
        return allocate(out, size, pool);
    }
    *out = work.alloc.address;
    return CUDA_SUCCESS;
}

STREAM_API(cuMemAllocAsync, _ptsz, (CUdeviceptr *out, size_t size, CUstream stream), (out, size, stream))
{
    CUmemoryPool pool;
    int device;
    TRY(stream_device(stream, &device));
    TRY(current_pool(&pool, device));
    return allocate_on(out, size, pool, stream);
}

STREAM_API(cuMemAllocFromPoolAsync, _ptsz, (CUdeviceptr *out, size_t size, CUmemoryPool pool, CUstream stream),
           (out, size, pool, stream))
{
    int device;
    TRY(stream_device(stream, &device));
    return allocate_on(out, size, pool, stream);
}

STREAM_API(cuMemFreeAsync, _ptsz, (CUdeviceptr address, CUstream stream), (address, stream))
{
    int device;
    bool captured;
    TRY(stream_device(stream, &device));
    TRY(capture_work(stream, &(struct work){ .type = NODE_FREE, .address = address }, &captured));
    if (captured) {
        return CUDA_SUCCESS;
    }
    struct range *range = range_at(address);
    REQUIRE(range != NULL && range->start == address, CUDA_ERROR_INVALID_VALUE);
    bool from_pool = range->kind == RANGE_IMPORTED && range->pool != NULL;
    REQUIRE(range->kind == RANGE_POOL || range->kind == RANGE_GRAPH || from_pool, CUDA_ERROR_INVALID_VALUE);
    return memory_release(range);
}

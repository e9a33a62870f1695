/* Stream-ordered allocations: charged as their pool grows, and no longer once it has shrunk. */
#include "behave.h"

static int alloc_async(uint64_t *result, size_t bytes) { return cuMemAllocAsync(result, bytes, NULL); }
static int alloc_async_ptsz(uint64_t *result, size_t bytes) { return cuMemAllocAsync_ptsz(result, bytes, NULL); }
static int alloc_pool(uint64_t *result, size_t bytes) { return cuMemAllocFromPoolAsync(result, bytes, own_pool, NULL); }
static int alloc_pool_ptsz(uint64_t *result, size_t bytes)
{
    return cuMemAllocFromPoolAsync_ptsz(result, bytes, own_pool, NULL);
}

static void free_async(uint64_t result)
{
    CHECK(cuMemFreeAsync(result, NULL) == 0);
    CHECK(cuStreamSynchronize(NULL) == 0);
}

void check_alloc_async(void) { check_allocation(alloc_async, free_async, 32 * MIB); }
void check_alloc_async_ptsz(void) { check_allocation(alloc_async_ptsz, free_async, 32 * MIB); }
void check_alloc_pool(void) { check_allocation(alloc_pool, free_async, 32 * MIB); }
void check_alloc_pool_ptsz(void) { check_allocation(alloc_pool_ptsz, free_async, 32 * MIB); }

static void keep_pool_memory(handle_t pool)
{
    uint64_t threshold = UINT64_MAX;
    CHECK(cuMemPoolSetAttribute(pool, 4, &threshold) == 0);
}

static void check_free_async(int (*release)(uint64_t, handle_t))
{
    uint64_t address = 0, again = 0;
    CHECK(cuMemAllocAsync(&address, 64 * MIB, NULL) == 0 && charged() == 64 * MIB);
    CHECK(release(address, NULL) == 0);
    /* The pool still holds it, and gives it out again without growing. */
    CHECK(cuMemAllocAsync(&again, 64 * MIB, NULL) == 0 && charged() == 64 * MIB);
    CHECK(release(again, NULL) == 0);
    CHECK(cuStreamSynchronize(NULL) == 0);
    CHECK(charged() == 0);
    /* A pool that is gone keeps what is not freed, and that alone. */
    CHECK(alloc_pool(&address, 32 * MIB) == 0 && cuMemPoolDestroy(own_pool) == 0);
    CHECK(charged() == 32 * MIB);
    CHECK(release(address, NULL) == 0 && charged() == 0);
}

void check_free_async_legacy(void) { check_free_async(cuMemFreeAsync); }
void check_free_async_ptsz(void) { check_free_async(cuMemFreeAsync_ptsz); }

void check_trim(void)
{
    uint64_t address = 0;
    handle_t pool;
    CHECK(cuDeviceGetMemPool(&pool, 0) == 0);
    keep_pool_memory(pool);
    CHECK(cuMemAllocAsync(&address, 64 * MIB, NULL) == 0);
    CHECK(cuMemFreeAsync(address, NULL) == 0 && cuStreamSynchronize(NULL) == 0);
    CHECK(charged() == 64 * MIB);
    CHECK(cuMemPoolTrimTo(pool, 0) == 0 && charged() == 0);
}

void check_pool_destroy(void)
{
    uint64_t freed = 0, kept = 0;
    keep_pool_memory(own_pool);
    CHECK(alloc_pool(&freed, 64 * MIB) == 0 && alloc_pool(&kept, 32 * MIB) == 0);
    CHECK(cuMemFreeAsync(freed, NULL) == 0 && cuStreamSynchronize(NULL) == 0);
    CHECK(charged() == 96 * MIB);
    CHECK(cuMemPoolDestroy(own_pool) == 0);
    CHECK(charged() == 32 * MIB);
    CHECK(cuMemFreeAsync(kept, NULL) == 0 && charged() == 0);
}

void check_pool_create(void)
{
    /* A pool of the other GPU, used from a stream of this one: charged where its memory lies. */
    struct pool_props props = {.type = 1, .location = {.type = 1, .id = 1}};
    handle_t pool;
    uint64_t address = 0, refused = SENTINEL;
    CHECK(cuMemPoolCreate(&pool, &props) == 0);
    CHECK(cuMemAllocFromPoolAsync(&address, 64 * MIB, pool, NULL) == 0);
    CHECK(charged_on(0) == 0 && charged_on(1) == 64 * MIB);
    CHECK(cuMemAllocFromPoolAsync(&refused, limit, pool, NULL) == OUT_OF_MEMORY && refused == SENTINEL);
}

/* ---- calls after which a pool may have shrunk ---- */

static void check_settling(int (*synchronize)(void))
{
    uint64_t address = 0;
    CHECK(cuMemAllocAsync(&address, 64 * MIB, NULL) == 0 && charged() == 64 * MIB);
    CHECK(cuMemFreeAsync(address, NULL) == 0);
    CHECK(synchronize() == 0);
    CHECK(charged() == 0);
}

static int synchronize_stream(void) { return cuStreamSynchronize(NULL); }
static int synchronize_stream_ptsz(void) { return cuStreamSynchronize_ptsz(NULL); }

static int synchronize_context(void)
{
    handle_t context;
    CHECK(cuDevicePrimaryCtxRetain(&context, 0) == 0);
    return cuCtxSynchronize_v2(context);
}

static int synchronize_event(void)
{
    handle_t event;
    CHECK(cuEventCreate(&event, 0) == 0 && cuEventRecord(event, NULL) == 0);
    return cuEventSynchronize(event);
}

void check_settling_stream(void) { check_settling(synchronize_stream); }
void check_settling_stream_ptsz(void) { check_settling(synchronize_stream_ptsz); }
void check_settling_context(void) { check_settling(cuCtxSynchronize); }
void check_settling_context_v2(void) { check_settling(synchronize_context); }
void check_settling_event(void) { check_settling(synchronize_event); }

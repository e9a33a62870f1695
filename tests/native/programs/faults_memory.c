/* The subjects of faults: each way to take memory or to give it back. */
#include "faults.h"

static const struct allocation_prop on_device = {.type = 1, .location = {.type = 1, .id = 0}};
static const struct pool_props pool_on_device = {.type = 1, .location = {.type = 1, .id = 0}};

static uint64_t address, handle, range;
static unsigned address_v1;
static handle_t pool;
static void *host;

TAKER(take, address, SENTINEL, cuMemAlloc_v2(&result, BYTES))
TAKER(take_v1, address_v1, SENTINEL, cuMemAlloc(&result, BYTES))
TAKER(take_managed, address, SENTINEL, cuMemAllocManaged(&result, BYTES, 1))
TAKER(take_async, address, SENTINEL, cuMemAllocAsync(&result, BYTES, NULL))
TAKER(take_async_ptsz, address, SENTINEL, cuMemAllocAsync_ptsz(&result, BYTES, NULL))
TAKER(take_pool, address, SENTINEL, cuMemAllocFromPoolAsync(&result, BYTES, pool, NULL))
TAKER(take_pool_ptsz, address, SENTINEL, cuMemAllocFromPoolAsync_ptsz(&result, BYTES, pool, NULL))
TAKER(create, handle, SENTINEL, cuMemCreate(&result, BYTES, &on_device, 0))
TAKER(retain, handle, SENTINEL, cuMemRetainAllocationHandle(&result, (void *)(uintptr_t)range))
TAKER(create_pool, pool, (uintptr_t)SENTINEL, cuMemPoolCreate(&result, &pool_on_device))
TAKER(take_host, host, (uintptr_t)SENTINEL, cuMemHostAlloc(&result, BYTES, 0))
TAKER(take_host_v1, host, (uintptr_t)SENTINEL, cuMemAllocHost(&result, BYTES))
TAKER(take_host_v2, host, (uintptr_t)SENTINEL, cuMemAllocHost_v2(&result, BYTES))

static int take_pitch_v1(void)
{
    unsigned result = SENTINEL, pitch = SENTINEL;
    int code = cuMemAllocPitch(&result, &pitch, 1000, BYTES / 1024, 4);
    CHECK(code == 0 || (result == SENTINEL && pitch == SENTINEL));
    address_v1 = code == 0 ? result : 0;
    return code;
}

static int take_pitch(void)
{
    uint64_t result = SENTINEL;
    size_t pitch = SENTINEL;
    int code = cuMemAllocPitch_v2(&result, &pitch, 1000, BYTES / 1024, 4);
    CHECK(code == 0 || (result == SENTINEL && pitch == SENTINEL));
    address = code == 0 ? result : 0;
    return code;
}

static int give(void) { return cuMemFree_v2(address); }
static int give_v1(void) { return cuMemFree(address_v1); }
static int give_async(void) { return cuMemFreeAsync(address, NULL); }
static int give_async_ptsz(void) { return cuMemFreeAsync_ptsz(address, NULL); }
static int give_host(void) { return cuMemFreeHost(host); }
static int release(void) { return cuMemRelease(handle); }
static int map(void) { return cuMemMap(range, BYTES, 0, handle, 0); }
static int unmap(void) { return cuMemUnmap(range, BYTES); }
static int destroy_pool(void) { return cuMemPoolDestroy(pool); }
static int trim(void) { return cuMemPoolTrimTo(pool, 0); }
static int pin(void) { return cuMemHostRegister(host, (unsigned)BYTES, 0); }
static int pin_v2(void) { return cuMemHostRegister_v2(host, BYTES, 0); }
static int unpin(void) { return cuMemHostUnregister(host); }

MUST(taken, take)
MUST(taken_v1, take_v1)
MUST(taken_async, take_async)
MUST(taken_host, take_host)
MUST(created, create)
MUST(created_pool, create_pool)
MUST(given, give)
MUST(given_v1, give_v1)
MUST(given_host, give_host)
MUST(released, release)
MUST(destroyed_pool, destroy_pool)

static void nothing(void) {}

static void synchronized(void) { CHECK(cuCtxSynchronize() == 0); }

static void given_async(void)
{
    CHECK(give_async() == 0);
    synchronized();
}

static void given_async_and_pool(void)
{
    given_async();
    destroyed_pool();
}

static void reserved_range(void)
{
    created();
    CHECK(cuMemAddressReserve(&range, BYTES, 0, 0, 0) == 0);
}

static void mapped(void)
{
    reserved_range();
    CHECK(map() == 0);
}

static void mapped_only(void)
{
    mapped();
    released();
}

static void freed_range(void) { CHECK(cuMemAddressFree(range, BYTES) == 0); }

static void unmapped(void)
{
    CHECK(unmap() == 0);
    freed_range();
}

static void unmapped_and_released(void)
{
    unmapped();
    released();
}

static void unmapped_and_released_twice(void)
{
    unmapped_and_released();
    released();
}

/* A pool that keeps 8 MiB which nobody uses. */
static void idle_pool(void)
{
    uint64_t keep = UINT64_MAX;
    created_pool();
    CHECK(cuMemPoolSetAttribute(pool, 4, &keep) == 0);
    CHECK(take_pool() == 0 && give_async() == 0);
}

static void host_pages(void) { CHECK((host = aligned_alloc(4096, BYTES)) != NULL); }
static void pinned_pages(void)
{
    host_pages();
    CHECK(pin_v2() == 0);
}
static void freed_pages(void) { free(host); }
static void unpinned(void)
{
    CHECK(unpin() == 0);
    freed_pages();
}

const struct subject memory_subjects[] = {
    {"cuMemAlloc", NULL, take_v1, given_v1},
    {"cuMemAlloc_v2", NULL, take, given},
    {"cuMemAllocPitch", NULL, take_pitch_v1, given_v1},
    {"cuMemAllocPitch_v2", NULL, take_pitch, given},
    {"cuMemAllocManaged", NULL, take_managed, given},
    {"cuMemAllocAsync", NULL, take_async, given_async},
    {"cuMemAllocAsync_ptsz", NULL, take_async_ptsz, given_async},
    {"cuMemAllocFromPoolAsync", created_pool, take_pool, given_async_and_pool},
    {"cuMemAllocFromPoolAsync_ptsz", created_pool, take_pool_ptsz, given_async_and_pool},
    {"cuMemCreate", NULL, create, released},
    {"cuMemMap", reserved_range, map, unmapped_and_released},
    {"cuMemRetainAllocationHandle", mapped, retain, unmapped_and_released_twice},
    {"cuMemPoolCreate", NULL, create_pool, destroyed_pool},
    {"cuMemHostAlloc", NULL, take_host, given_host},
    {"cuMemAllocHost", NULL, take_host_v1, given_host},
    {"cuMemAllocHost_v2", NULL, take_host_v2, given_host},
    {"cuMemHostRegister", host_pages, pin, unpinned},
    {"cuMemHostRegister_v2", host_pages, pin_v2, unpinned},
    {"cuMemFree", taken_v1, give_v1, nothing},
    {"cuMemFree_v2", taken, give, nothing},
    {"cuMemFreeAsync", taken_async, give_async, synchronized},
    {"cuMemFreeAsync_ptsz", taken_async, give_async_ptsz, synchronized},
    {"cuMemRelease", created, release, nothing},
    {"cuMemUnmap", mapped_only, unmap, freed_range},
    {"cuMemPoolTrimTo", idle_pool, trim, destroyed_pool},
    {"cuMemPoolDestroy", idle_pool, destroy_pool, nothing},
    {"cuMemFreeHost", taken_host, give_host, nothing},
    {"cuMemHostUnregister", pinned_pages, unpin, freed_pages},
    {NULL, NULL, NULL, NULL},
};

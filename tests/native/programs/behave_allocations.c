/* Allocations that are memory at once (plain, pitched, managed), their frees, and what holds for every spelling. */
#include "behave.h"

static void check_charged(size_t bytes, size_t slack)
{
    CHECK(charged() >= bytes && charged() <= bytes + slack);
    CHECK(shown_free() == limit - charged());
}

void check_allocation(allocate_t *allocate, release_t *release, size_t slack)
{
    uint64_t first = 0, second = 0, refused = SENTINEL;
    size_t half = limit / 2;
    CHECK(charged() == 0 && shown_free() == limit);
    CHECK(allocate(&first, half) == 0);
    check_charged(half, slack);
    CHECK(allocate(&refused, half + 64 * MIB) == OUT_OF_MEMORY);
    CHECK(refused == SENTINEL);
    check_charged(half, slack);
    CHECK(allocate(&second, half / 2) == 0);
    check_charged(half + half / 2, slack);
    release(first);
    check_charged(half / 2, slack);
    release(second);
    CHECK(charged() == 0 && shown_free() == limit);
    /* Refusals cost nothing: all of it can be had again, and then nothing more. */
    CHECK(allocate(&first, limit) == 0);
    CHECK(charged() == limit && shown_free() == 0);
    CHECK(allocate(&refused, 2 * MIB) == OUT_OF_MEMORY);
    CHECK(refused == SENTINEL);
    release(first);
    CHECK(charged() == 0 && shown_free() == limit);
}

static int alloc_v1(uint64_t *result, size_t bytes)
{
    unsigned address = (unsigned)*result;
    int code = cuMemAlloc(&address, (unsigned)bytes);
    *result = address;
    return code;
}

static int alloc_v2(uint64_t *result, size_t bytes) { return cuMemAlloc_v2(result, bytes); }
static int alloc_managed(uint64_t *result, size_t bytes) { return cuMemAllocManaged(result, bytes, 1); }

static int alloc_pitch_v1(uint64_t *result, size_t bytes)
{
    unsigned address = (unsigned)*result, pitch = SENTINEL;
    int code = cuMemAllocPitch(&address, &pitch, 1000, (unsigned)(bytes / 1024), 4);
    CHECK(code == 0 ? pitch >= 1000 : pitch == SENTINEL);
    *result = address;
    return code;
}

static int alloc_pitch_v2(uint64_t *result, size_t bytes)
{
    size_t pitch = SENTINEL;
    int code = cuMemAllocPitch_v2(result, &pitch, 1000, bytes / 1024, 4);
    CHECK(code == 0 ? pitch >= 1000 : pitch == SENTINEL);
    return code;
}

static void free_v1(uint64_t result) { CHECK(cuMemFree((unsigned)result) == 0); }
static void free_v2(uint64_t result) { CHECK(cuMemFree_v2(result) == 0); }

void check_alloc_v1(void) { check_allocation(alloc_v1, free_v1, 0); }
void check_alloc_v2(void) { check_allocation(alloc_v2, free_v2, 0); }
void check_alloc_pitch_v1(void) { check_allocation(alloc_pitch_v1, free_v1, 0); }
void check_alloc_pitch_v2(void) { check_allocation(alloc_pitch_v2, free_v2, 0); }
void check_alloc_managed(void) { check_allocation(alloc_managed, free_v2, 0); }

void check_free_v1(void)
{
    uint64_t address = 0;
    CHECK(alloc_v1(&address, 64 * MIB) == 0 && charged() == 64 * MIB);
    CHECK(cuMemFree((unsigned)address) == 0);
    CHECK(charged() == 0);
    CHECK(cuMemFree(0) == 0);
}

void check_free_v2(void)
{
    uint64_t address = 0;
    CHECK(cuMemAlloc_v2(&address, 64 * MIB) == 0 && charged() == 64 * MIB);
    CHECK(cuMemFree_v2(address + 64) != 0 && charged() == 64 * MIB);
    CHECK(cuMemFree_v2(address) == 0 && charged() == 0);
    CHECK(cuMemFree_v2(0) == 0);
    CHECK(cuMemFree_v2(address) != 0 && charged() == 0);
    /* Memory of a pool may be freed this way too, and shrinks the pool at once. */
    CHECK(cuMemAllocAsync(&address, 64 * MIB, NULL) == 0 && charged() == 64 * MIB);
    CHECK(cuMemFree_v2(address) == 0 && charged() == 0);
}

/* What contexts cost, and what they take with them. The device's own contexts cost nothing here: the floor counts. */
#include "behave.h"

#define FLOOR (64 * MIB)

static uint64_t expected_overhead;

/* A second GPU keeps the first one's primary context out of the numbers. */
static void begin(void)
{
    CHECK(cuCtxSetCurrent(NULL) == 0);
    expected_overhead = overhead();
}

static void check_overhead(uint64_t contexts)
{
    CHECK(overhead() == expected_overhead + contexts * FLOOR);
}

typedef int create_t(handle_t *context);

static int create_v1(handle_t *context) { return cuCtxCreate(context, 0, 0); }
static int create_v2(handle_t *context) { return cuCtxCreate_v2(context, 0, 0); }
static int create_v3(handle_t *context) { return cuCtxCreate_v3(context, NULL, 0, 0, 0); }
static int create_v4(handle_t *context) { return cuCtxCreate_v4(context, NULL, 0, 0); }

static void check_create(create_t *create)
{
    handle_t context = NULL, refused = (handle_t)SENTINEL;
    uint64_t address;
    begin();
    CHECK(create(&context) == 0);
    check_overhead(1);
    CHECK(shown_free() == limit - overhead());
    CHECK(create(NULL) != 0);
    check_overhead(1);
    /* What has no room for a context gets none, and its caller's variable is left alone. */
    CHECK(cuMemAlloc_v2(&address, shown_free() - FLOOR + MIB) == 0);
    CHECK(create(&refused) == OUT_OF_MEMORY && refused == (handle_t)SENTINEL);
    check_overhead(1);
    CHECK(cuMemFree_v2(address) == 0);
    CHECK(cuCtxDestroy_v2(context) == 0);
    check_overhead(0);
}

void check_ctx_create_v1(void) { check_create(create_v1); }
void check_ctx_create_v2(void) { check_create(create_v2); }
void check_ctx_create_v3(void) { check_create(create_v3); }
void check_ctx_create_v4(void) { check_create(create_v4); }

/* Everything that was allocated in a context goes with it; what is of another one stays, as do pools. */
static void check_destroy(int (*destroy)(handle_t))
{
    handle_t first, second;
    uint64_t address, stays, pooled;
    size_t pitch;
    begin();
    CHECK(create_v2(&first) == 0);
    CHECK(cuMemAlloc_v2(&stays, 32 * MIB) == 0);
    CHECK(create_v2(&second) == 0);
    for (int round = 0; round < 20; round++)
        CHECK(cuMemAlloc_v2(&address, 2 * MIB) == 0);
    CHECK(cuMemAllocPitch_v2(&address, &pitch, 4096, 1024, 4) == 0);
    CHECK(cuMemAllocManaged(&address, 8 * MIB, 1) == 0);
    CHECK(cuMemAllocAsync(&pooled, 32 * MIB, NULL) == 0);
    check_overhead(2);
    CHECK(charged() == (32 + 40 + 4 + 8 + 32) * MIB);
    CHECK(destroy(second) == 0);
    check_overhead(1);
    CHECK(charged() == 64 * MIB);
    CHECK(destroy(second) != 0 && charged() == 64 * MIB);
    check_overhead(1);
    CHECK(cuCtxSetCurrent(first) == 0);
    CHECK(cuMemFree_v2(stays) == 0 && cuMemFree_v2(pooled) == 0 && charged() == 0);
    CHECK(destroy(first) == 0);
    check_overhead(0);
    /* The primary context is no program's to destroy. */
    CHECK(cuDevicePrimaryCtxRetain(&first, 0) == 0 && cuCtxSetCurrent(first) == 0);
    CHECK(cuMemAlloc_v2(&address, 16 * MIB) == 0);
    CHECK(destroy(first) != 0 && charged() == 16 * MIB);
    CHECK(cuMemFree_v2(address) == 0 && charged() == 0);
}

void check_ctx_destroy_v1(void) { check_destroy(cuCtxDestroy); }
void check_ctx_destroy_v2(void) { check_destroy(cuCtxDestroy_v2); }

void check_ctx_attach(void)
{
    handle_t context, again = NULL;
    uint64_t address;
    begin();
    CHECK(create_v2(&context) == 0);
    CHECK(cuCtxAttach(&again, 0) == 0 && again == context);
    CHECK(cuMemAlloc_v2(&address, 4 * MIB) == 0);
    CHECK(cuCtxDetach(context) == 0);
    check_overhead(1);
    CHECK(charged() == 4 * MIB);
    CHECK(cuCtxDetach(context) == 0);
    check_overhead(0);
    CHECK(charged() == 0);
    CHECK(cuCtxDetach(context) != 0);
}

void check_ctx_detach(void)
{
    handle_t context;
    uint64_t address;
    begin();
    CHECK(create_v2(&context) == 0 && cuMemAlloc_v2(&address, 4 * MIB) == 0);
    CHECK(cuCtxDetach(context) == 0 && charged() == 0);
    check_overhead(0);
    /* One that is not current can not be detached, and loses nothing by the attempt. */
    CHECK(create_v2(&context) == 0 && cuMemAlloc_v2(&address, 4 * MIB) == 0);
    CHECK(cuCtxSetCurrent(NULL) == 0);
    CHECK(cuCtxDetach(context) != 0 && charged() == 4 * MIB);
    check_overhead(1);
}

static void check_primary_cycle(int (*end)(int), bool resets)
{
    handle_t context;
    uint64_t address, pooled;
    /* behave itself retained it once. */
    CHECK(overhead() == FLOOR && cuMemAlloc_v2(&address, 4 * MIB) == 0);
    CHECK(cuMemAllocAsync(&pooled, 32 * MIB, NULL) == 0 && charged() == 36 * MIB);
    CHECK(cuDevicePrimaryCtxRetain(&context, 0) == 0 && overhead() == FLOOR);
    if (!resets) {
        CHECK(end(0) == 0);
        CHECK(overhead() == FLOOR && charged() == 36 * MIB);
    }
    CHECK(end(0) == 0);
    CHECK(overhead() == 0 && charged() == 0);
    CHECK(end(0) != 0 || resets);
    CHECK(overhead() == 0 && charged() == 0);
    /* Again, and the addresses may be the same ones. */
    CHECK(cuDevicePrimaryCtxRetain(&context, 0) == 0 && cuCtxSetCurrent(context) == 0);
    CHECK(overhead() == FLOOR && cuMemAlloc_v2(&address, 4 * MIB) == 0 && charged() == 4 * MIB);
    CHECK(cuMemFree_v2(address) == 0 && charged() == 0);
}

void check_primary_release_v1(void) { check_primary_cycle(cuDevicePrimaryCtxRelease, false); }
void check_primary_release_v2(void) { check_primary_cycle(cuDevicePrimaryCtxRelease_v2, false); }
void check_primary_reset_v1(void) { check_primary_cycle(cuDevicePrimaryCtxReset, true); }
void check_primary_reset_v2(void) { check_primary_cycle(cuDevicePrimaryCtxReset_v2, true); }

void check_primary_retain(void)
{
    handle_t own, context = (handle_t)SENTINEL;
    uint64_t address, kept;
    CHECK(overhead() == FLOOR);
    CHECK(create_v2(&own) == 0 && overhead() == 2 * FLOOR && cuMemAlloc_v2(&kept, 4 * MIB) == 0);
    CHECK(cuDevicePrimaryCtxRelease_v2(0) == 0 && overhead() == FLOOR && charged() == 4 * MIB);
    /* No room: refused, and the caller's variable is left alone. */
    CHECK(cuMemAlloc_v2(&address, shown_free() - FLOOR + MIB) == 0);
    CHECK(cuDevicePrimaryCtxRetain(&context, 0) == OUT_OF_MEMORY && context == (handle_t)SENTINEL);
    CHECK(overhead() == FLOOR);
    CHECK(cuMemFree_v2(address) == 0);
    CHECK(cuDevicePrimaryCtxRetain(&context, 0) == 0 && overhead() == 2 * FLOOR);
    CHECK(cuDevicePrimaryCtxRetain(NULL, 0) != 0 && overhead() == 2 * FLOOR);
    CHECK(cuDevicePrimaryCtxRetain(&context, 99) != 0 && overhead() == 2 * FLOOR);
    for (int round = 0; round < 1000; round++) {
        CHECK(cuDevicePrimaryCtxRelease_v2(0) == 0);
        CHECK(cuDevicePrimaryCtxRetain(&context, 0) == 0);
    }
    CHECK(overhead() == 2 * FLOOR && charged() == 4 * MIB);
}

static handle_t describe(void)
{
    unsigned char resource[144];
    handle_t description;
    CHECK(cuDeviceGetDevResource(0, resource, 1) == 0);
    CHECK(cuDevResourceGenerateDesc(&description, resource, 1) == 0);
    return description;
}

/* A green context keeps the primary context alive; what is allocated in it is the primary's. */
static void check_green(void)
{
    handle_t green = NULL, context, description = describe();
    uint64_t address;
    CHECK(overhead() == FLOOR && cuDevicePrimaryCtxRelease_v2(0) == 0 && overhead() == 0);
    CHECK(cuGreenCtxCreate(&green, description, 0, 1) == 0);
    CHECK(overhead() == FLOOR);
    CHECK(cuCtxFromGreenCtx(&context, green) == 0 && cuCtxSetCurrent(context) == 0);
    CHECK(cuMemAlloc_v2(&address, 4 * MIB) == 0 && charged() == 4 * MIB);
    CHECK(cuDevicePrimaryCtxRetain(&context, 0) == 0 && overhead() == FLOOR);
    CHECK(cuGreenCtxDestroy(green) == 0 && overhead() == FLOOR && charged() == 4 * MIB);
    CHECK(cuCtxSetCurrent(context) == 0 && cuMemFree_v2(address) == 0 && charged() == 0);
}

void check_green_create(void)
{
    handle_t refused = (handle_t)SENTINEL, description = describe();
    handle_t own;
    uint64_t address;
    check_green();
    CHECK(create_v2(&own) == 0);
    CHECK(cuDevicePrimaryCtxRelease_v2(0) == 0 && overhead() == FLOOR);
    CHECK(cuMemAlloc_v2(&address, shown_free() - FLOOR + MIB) == 0);
    CHECK(cuGreenCtxCreate(&refused, description, 0, 1) == OUT_OF_MEMORY && refused == (handle_t)SENTINEL);
    CHECK(overhead() == FLOOR);
}

void check_green_destroy(void)
{
    handle_t green, context, description = describe();
    uint64_t address;
    check_green();
    CHECK(cuDevicePrimaryCtxRelease_v2(0) == 0 && overhead() == 0);
    CHECK(cuGreenCtxCreate(&green, description, 0, 0) == 0 && overhead() == FLOOR);
    CHECK(cuCtxFromGreenCtx(&context, green) == 0 && cuCtxSetCurrent(context) == 0);
    CHECK(cuMemAlloc_v2(&address, 4 * MIB) == 0 && charged() == 4 * MIB);
    CHECK(cuGreenCtxDestroy(green) == 0 && overhead() == 0 && charged() == 0);
    CHECK(cuGreenCtxDestroy(green) != 0 && overhead() == 0);
}

/* The subjects of faults: contexts, which cost memory themselves and take with them what was allocated in them. */
#include "faults.h"

static handle_t context, primary;
static uint64_t address;

TAKER(create, context, (uintptr_t)SENTINEL, cuCtxCreate(&result, 0, 0))
TAKER(create_v2, context, (uintptr_t)SENTINEL, cuCtxCreate_v2(&result, 0, 0))
TAKER(create_v3, context, (uintptr_t)SENTINEL, cuCtxCreate_v3(&result, NULL, 0, 0, 0))
TAKER(create_v4, context, (uintptr_t)SENTINEL, cuCtxCreate_v4(&result, NULL, 0, 0))
TAKER(attach, context, (uintptr_t)SENTINEL, cuCtxAttach(&result, 0))
TAKER(retain, primary, (uintptr_t)SENTINEL, cuDevicePrimaryCtxRetain(&result, 0))

static int destroy(void) { return cuCtxDestroy(context); }
static int destroy_v2(void) { return cuCtxDestroy_v2(context); }
static int detach(void) { return cuCtxDetach(context); }
static int release(void) { return cuDevicePrimaryCtxRelease(0); }
static int release_v2(void) { return cuDevicePrimaryCtxRelease_v2(0); }

MUST(created, create_v2)
MUST(retained, retain)
MUST(released, release_v2)

static void back(void) { CHECK(retain() == 0 && cuCtxSetCurrent(primary) == 0 && release_v2() == 0); }

static void destroyed(void)
{
    CHECK(destroy_v2() == 0);
    back();
}

static void with_memory(void)
{
    created();
    CHECK(cuMemAlloc_v2(&address, BYTES) == 0);
}

static void attached_twice(void)
{
    CHECK(detach() == 0 && detach() == 0);
    back();
}

const struct subject context_subjects[] = {
    {"cuCtxCreate", NULL, create, destroyed},
    {"cuCtxCreate_v2", NULL, create_v2, destroyed},
    {"cuCtxCreate_v3", NULL, create_v3, destroyed},
    {"cuCtxCreate_v4", NULL, create_v4, destroyed},
    {"cuCtxAttach", created, attach, attached_twice},
    {"cuCtxDetach", with_memory, detach, back},
    {"cuCtxDestroy", with_memory, destroy, back},
    {"cuCtxDestroy_v2", with_memory, destroy_v2, back},
    {"cuDevicePrimaryCtxRetain", NULL, retain, released},
    {"cuDevicePrimaryCtxRelease", retained, release, back},
    {"cuDevicePrimaryCtxRelease_v2", retained, release_v2, back},
    {NULL, NULL, NULL, NULL},
};

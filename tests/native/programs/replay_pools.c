/* Stream-ordered memory: place P has one pool, and one allocation from it or from the default pool. */
#include "replay.h"

static handle_t pools[PLACES];
static uint64_t held[PLACES];

int do_pool_create(const struct operation *operation)
{
    struct pool_props props = {.type = 1, .location = {.type = 1, .id = 0}};
    int at = operation->place % PLACES;
    if (pools[at] != NULL)
        return NOTHING_DONE;
    int code = cuMemPoolCreate(&pools[at], &props);
    uint64_t keep = operation->extra % 2 == 0 ? 0 : UINT64_MAX;
    if (code == 0)
        CHECK(cuMemPoolSetAttribute(pools[at], 4, &keep) == 0);
    return code;
}

int do_pool_destroy(const struct operation *operation)
{
    int at = operation->place % PLACES;
    if (pools[at] == NULL)
        return NOTHING_DONE;
    int code = cuMemPoolDestroy(pools[at]);
    pools[at] = NULL;
    return code;
}

int do_pool_trim(const struct operation *operation)
{
    int at = operation->place % PLACES;
    return pools[at] == NULL ? NOTHING_DONE : cuMemPoolTrimTo(pools[at], size_of(operation->size));
}

int do_pool_alloc(const struct operation *operation)
{
    int at = operation->place % PLACES;
    if (pools[at] == NULL || held[at] != 0)
        return NOTHING_DONE;
    int code = cuMemAllocFromPoolAsync(&held[at], size_of(operation->size), pools[at], NULL);
    if (code != 0)
        held[at] = 0;
    return code;
}

int do_async_alloc(const struct operation *operation)
{
    int at = operation->place % PLACES;
    if (held[at] != 0)
        return NOTHING_DONE;
    int code = operation->extra % 2 == 0 ? cuMemAllocAsync(&held[at], size_of(operation->size), NULL)
                                         : cuMemAllocAsync_ptsz(&held[at], size_of(operation->size), NULL);
    if (code != 0)
        held[at] = 0;
    return code;
}

int do_async_free(const struct operation *operation)
{
    int at = operation->place % PLACES;
    if (held[at] == 0)
        return NOTHING_DONE;
    int code = operation->extra % 2 == 0 ? cuMemFreeAsync(held[at], NULL) : cuMemFree_v2(held[at]);
    held[at] = 0;
    return code;
}

int do_synchronize(const struct operation *operation)
{
    return operation->extra % 2 == 0 ? cuCtxSynchronize() : cuStreamSynchronize(NULL);
}

void end_pools(void)
{
    handle_t of_device;
    for (int place = 0; place < PLACES; place++) {
        if (held[place] != 0)
            CHECK(cuMemFreeAsync(held[place], NULL) == 0);
        held[place] = 0;
    }
    CHECK(cuCtxSynchronize() == 0);
    for (int place = 0; place < PLACES; place++) {
        if (pools[place] != NULL)
            CHECK(cuMemPoolDestroy(pools[place]) == 0);
        pools[place] = NULL;
    }
    CHECK(cuDeviceGetDefaultMemPool(&of_device, 0) == 0 && cuMemPoolTrimTo(of_device, 0) == 0);
}

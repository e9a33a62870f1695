/*
 * pool_corners CASE: pools that are not where, or not as few as, one would expect. Prints nothing; exits 1 on a surprise.
 *
 *   foreign   the default pool of GPU 1 is first seen with a stream of GPU 0, and then filled
 *   many      more pools than can be told apart, each with a small allocation
 */
#include "driver_api.h"

enum { POOLS = 400 };

static void fill_a_foreign_pool(void)
{
    handle_t pool;
    uint64_t address;
    int code = 0;
    use_device(1);
    use_device(0);
    CHECK(cuDeviceGetDefaultMemPool(&pool, 1) == 0);
    while (code == 0)
        code = cuMemAllocFromPoolAsync(&address, 64 * MIB, pool, NULL);
    CHECK(code == OUT_OF_MEMORY);
    use_device(1);
    CHECK(cuMemAllocAsync(&address, 64 * MIB, NULL) == OUT_OF_MEMORY);
}

static void fill_many_pools(void)
{
    static handle_t pools[POOLS];
    struct pool_props props = {.type = 1, .location = {.type = 1, .id = 0}};
    uint64_t address;
    int made = 0;
    use_device(0);
    while (made < POOLS && cuMemPoolCreate(&pools[made], &props) == 0)
        made++;
    CHECK(made >= 128);
    for (int index = made - 1; index >= 0; index--) {
        int code = cuMemAllocFromPoolAsync(&address, MIB, pools[index], NULL);
        CHECK(code == 0 || code == OUT_OF_MEMORY);
    }
    /* A record is free again once its pool is gone. */
    for (int index = 0; index < made; index++)
        CHECK(cuMemPoolDestroy(pools[index]) == 0);
}

int main(int count, char **arguments)
{
    CHECK(count == 2);
    load_driver();
    CHECK(cuInit(0) == 0);
    if (strcmp(arguments[1], "foreign") == 0)
        fill_a_foreign_pool();
    else
        fill_many_pools();
    return 0;
}

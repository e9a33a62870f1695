/*
 * threads LIMIT_MIB STATE: eight threads allocate and free in every spelling until each has done its rounds; then
 * nothing may be charged, and LIMIT_MIB must be there again.
 */
#include <fcntl.h>
#include <pthread.h>
#include <unistd.h>

#include "../../../native/abi/fracgpu_abi.h"
#include "driver_api.h"

enum { THREADS = 8, ROUNDS = 400 };

static handle_t context_of_all;
static uint64_t reserved_space;

static void one_round(uint64_t *random, int *granted)
{
    static const struct allocation_prop on_device = {.type = 1, .location = {.type = 1, .id = 0}};
    *random = *random * 6364136223846793005u + 1442695040888963407u;
    size_t bytes = (1 + (*random >> 33) % 64) * 2 * MIB;
    uint64_t address = 0, space = 0;
    int code;
    switch ((*random >> 60) % 4) {
    case 0:
        code = cuMemAlloc_v2(&address, bytes);
        CHECK(code == 0 || code == OUT_OF_MEMORY);
        CHECK(code != 0 || cuMemFree_v2(address) == 0);
        break;
    case 1:
        code = cuMemAllocAsync(&address, bytes, NULL);
        CHECK(code == 0 || code == OUT_OF_MEMORY);
        CHECK(code != 0 || cuMemFreeAsync(address, NULL) == 0);
        break;
    case 2:
        code = cuMemAllocManaged(&address, bytes, 1);
        CHECK(code == 0 || code == OUT_OF_MEMORY);
        CHECK(code != 0 || cuMemFree_v2(address) == 0);
        break;
    default:
        code = cuMemCreate(&address, bytes, &on_device, 0);
        CHECK(code == 0 || code == OUT_OF_MEMORY);
        if (code != 0)
            break;
        CHECK(cuMemAddressReserve(&space, bytes, 0, 0, 0) == 0);
        CHECK(cuMemMap(space, bytes, 0, address, 0) == 0);
        CHECK(cuMemRelease(address) == 0);
        CHECK(cuMemUnmap(space, bytes) == 0);
        CHECK(cuMemAddressFree(space, bytes) == 0);
    }
    *granted += code == 0;
}

static void *run(void *argument)
{
    uint64_t random = (uintptr_t)argument;
    int granted = 0;
    CHECK(cuCtxSetCurrent(context_of_all) == 0);
    for (int round = 0; round < ROUNDS; round++)
        one_round(&random, &granted);
    CHECK(granted > 0);
    return NULL;
}

int main(int count, char **arguments)
{
    pthread_t threads[THREADS];
    struct fracgpu_slot slot;
    uint64_t address;
    CHECK(count == 3);
    size_t limit = strtoul(arguments[1], NULL, 10) * MIB;
    load_driver();
    CHECK(cuInit(0) == 0 && cuDevicePrimaryCtxRetain(&context_of_all, 0) == 0);
    for (uintptr_t index = 0; index < THREADS; index++)
        CHECK(pthread_create(&threads[index], NULL, run, (void *)(index + 1)) == 0);
    for (int index = 0; index < THREADS; index++)
        pthread_join(threads[index], NULL);
    CHECK(cuCtxSetCurrent(context_of_all) == 0 && cuCtxSynchronize() == 0);
    int descriptor = open(arguments[2], O_RDONLY);
    CHECK(pread(descriptor, &slot, sizeof(slot), FRACGPU_STATE_HEADER_BYTES) == sizeof(slot));
    CHECK(slot.committed_bytes == 0 && slot.pending_bytes == 0);
    CHECK(slot.managed_bytes == 0 && slot.pool_bytes == 0);
    CHECK(cuMemAlloc_v2(&address, limit) == 0);
    return 0;
}

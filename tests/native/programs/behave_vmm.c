/* Virtual memory management: a handle holds memory, and so does each mapping of it. */
#include "behave.h"

static const struct allocation_prop on_device = {.type = 1, .location = {.type = 1, .id = 0}};

static int alloc_create(uint64_t *result, size_t bytes) { return cuMemCreate(result, bytes, &on_device, 0); }
static void release_handle(uint64_t result) { CHECK(cuMemRelease(result) == 0); }

void check_alloc_create(void) { check_allocation(alloc_create, release_handle, 0); }

void check_release(void)
{
    uint64_t handle = 0;
    CHECK(alloc_create(&handle, 64 * MIB) == 0 && charged() == 64 * MIB);
    CHECK(cuMemRelease(handle) == 0 && charged() == 0);
    CHECK(cuMemRelease(handle) != 0 && charged() == 0);
}

static uint64_t mapped(uint64_t handle, size_t bytes)
{
    uint64_t address = 0;
    CHECK(cuMemAddressReserve(&address, bytes, 0, 0, 0) == 0);
    CHECK(cuMemMap(address, bytes, 0, handle, 0) == 0);
    return address;
}

void check_map(void)
{
    uint64_t handle = 0;
    CHECK(alloc_create(&handle, 64 * MIB) == 0);
    uint64_t address = mapped(handle, 64 * MIB);
    CHECK(cuMemRelease(handle) == 0);
    CHECK(charged() == 64 * MIB);
    CHECK(cuMemUnmap(address, 64 * MIB) == 0 && charged() == 0);
    CHECK(cuMemMap(address, 64 * MIB, 0, handle, 0) != 0 && charged() == 0);
}

void check_unmap(void)
{
    uint64_t handle = 0;
    CHECK(alloc_create(&handle, 64 * MIB) == 0);
    uint64_t address = mapped(handle, 64 * MIB);
    CHECK(cuMemRelease(handle) == 0 && charged() == 64 * MIB);
    CHECK(cuMemUnmap(address + 2 * MIB, 2 * MIB) != 0 && charged() == 64 * MIB);
    CHECK(cuMemUnmap(address, 64 * MIB) == 0 && charged() == 0);
}

void check_retain(void)
{
    uint64_t handle = 0, retained = 0;
    CHECK(alloc_create(&handle, 64 * MIB) == 0);
    uint64_t address = mapped(handle, 64 * MIB);
    CHECK(cuMemRetainAllocationHandle(&retained, (void *)(uintptr_t)(address + 2 * MIB)) == 0);
    CHECK(cuMemUnmap(address, 64 * MIB) == 0 && cuMemRelease(handle) == 0);
    CHECK(charged() == 64 * MIB);
    CHECK(cuMemRelease(retained) == 0 && charged() == 0);
}

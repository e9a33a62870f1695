/* Pinned memory of the host: counted, whatever the limit, and never part of what is charged. */
#include "behave.h"

static unsigned char own_memory[4 * MIB];

static int alloc_v1(void **result, size_t bytes) { return cuMemAllocHost(result, (unsigned)bytes); }
static int alloc_v2(void **result, size_t bytes) { return cuMemAllocHost_v2(result, bytes); }
static int alloc_flags(void **result, size_t bytes) { return cuMemHostAlloc(result, bytes, 2); }

static void check_pinning(int (*allocate)(void **, size_t))
{
    void *first = NULL, *second = NULL;
    CHECK(pinned() == 0);
    CHECK(allocate(&first, 64 * MIB) == 0 && pinned() == 64 * MIB);
    /* More than the limit of the GPU: there is none for the host. */
    CHECK(allocate(&second, limit + 64 * MIB) == 0 && pinned() == limit + 128 * MIB);
    CHECK(charged() == 0 && shown_free() == limit);
    CHECK(allocate(NULL, 64 * MIB) != 0 && pinned() == limit + 128 * MIB);
    CHECK(cuMemFreeHost(second) == 0 && pinned() == 64 * MIB);
    CHECK(cuMemFreeHost(first) == 0 && pinned() == 0);
}

void check_host_alloc_v1(void) { check_pinning(alloc_v1); }
void check_host_alloc_v2(void) { check_pinning(alloc_v2); }
void check_host_alloc_flags(void) { check_pinning(alloc_flags); }

static void check_registering(int (*registering)(void *, size_t, unsigned))
{
    CHECK(registering(own_memory, 2 * MIB, 0) == 0 && pinned() == 2 * MIB);
    CHECK(registering(own_memory, 2 * MIB, 0) != 0 && pinned() == 2 * MIB);
    CHECK(registering(own_memory + 2 * MIB, MIB, 0) == 0 && pinned() == 3 * MIB);
    CHECK(cuMemHostUnregister(own_memory) == 0 && pinned() == MIB);
    CHECK(cuMemHostUnregister(own_memory + 2 * MIB) == 0 && pinned() == 0);
    CHECK(charged() == 0 && shown_free() == limit);
}

void check_host_register_v1(void) { check_registering(cuMemHostRegister); }
void check_host_register_v2(void) { check_registering(cuMemHostRegister_v2); }

void check_host_free(void)
{
    void *address = NULL;
    CHECK(alloc_v2(&address, 8 * MIB) == 0 && pinned() == 8 * MIB);
    CHECK(cuMemFreeHost((unsigned char *)address + 4096) != 0 && pinned() == 8 * MIB);
    /* The wrong function: the driver refuses, and the memory is as pinned as before. */
    CHECK(cuMemHostUnregister(address) != 0 && pinned() == 8 * MIB);
    CHECK(cuMemFreeHost(address) == 0 && pinned() == 0);
    CHECK(cuMemFreeHost(address) != 0 && pinned() == 0);
}

void check_host_unregister(void)
{
    CHECK(cuMemHostRegister_v2(own_memory, 2 * MIB, 0) == 0 && pinned() == 2 * MIB);
    CHECK(cuMemFreeHost(own_memory) != 0 && pinned() == 2 * MIB);
    CHECK(cuMemHostUnregister(own_memory) == 0 && pinned() == 0);
    CHECK(cuMemHostUnregister(own_memory) != 0 && pinned() == 0);
}

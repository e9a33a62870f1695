/* Physical memory by handle: place P has one handle with some references, and one mapping of it. */
#include "replay.h"

enum { REFERENCES_MAX = 4 };

static struct {
    uint64_t handle, mapped;
    size_t bytes;
    int references;
} physical[PLACES];

int do_create(const struct operation *operation)
{
    struct allocation_prop prop = {.type = 1, .location = {.type = 1, .id = 0}};
    int at = operation->place % PLACES;
    size_t bytes = size_of(operation->size);
    if (physical[at].references != 0 || physical[at].mapped != 0)
        return NOTHING_DONE;
    int code = cuMemCreate(&physical[at].handle, bytes, &prop, 0);
    if (code == 0) {
        physical[at].references = 1;
        physical[at].bytes = bytes;
    }
    return code;
}

int do_retain(const struct operation *operation)
{
    int at = operation->place % PLACES;
    uint64_t handle;
    if (physical[at].mapped == 0 || physical[at].references == REFERENCES_MAX)
        return NOTHING_DONE;
    int code = cuMemRetainAllocationHandle(&handle, (void *)(uintptr_t)physical[at].mapped);
    if (code == 0) {
        physical[at].handle = handle;
        physical[at].references++;
    }
    return code;
}

int do_release(const struct operation *operation)
{
    int at = operation->place % PLACES;
    if (physical[at].references == 0)
        return NOTHING_DONE;
    int code = cuMemRelease(physical[at].handle);
    if (code == 0)
        physical[at].references--;
    return code;
}

int do_map(const struct operation *operation)
{
    int at = operation->place % PLACES;
    uint64_t address;
    if (physical[at].references == 0 || physical[at].mapped != 0)
        return NOTHING_DONE;
    int code = cuMemAddressReserve(&address, physical[at].bytes, 0, 0, 0);
    if (code != 0)
        return code;
    code = cuMemMap(address, physical[at].bytes, 0, physical[at].handle, 0);
    if (code == 0)
        physical[at].mapped = address;
    else
        CHECK(cuMemAddressFree(address, physical[at].bytes) == 0);
    return code;
}

int do_unmap(const struct operation *operation)
{
    int at = operation->place % PLACES;
    if (physical[at].mapped == 0)
        return NOTHING_DONE;
    int code = cuMemUnmap(physical[at].mapped, physical[at].bytes);
    if (code == 0) {
        CHECK(cuMemAddressFree(physical[at].mapped, physical[at].bytes) == 0);
        physical[at].mapped = 0;
    }
    return code;
}

void end_physical(void)
{
    for (int place = 0; place < PLACES; place++) {
        struct operation here = {.place = (unsigned char)place};
        if (physical[place].mapped != 0)
            CHECK(do_unmap(&here) == 0);
        while (physical[place].references != 0)
            CHECK(do_release(&here) == 0);
    }
}

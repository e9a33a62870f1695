/* Plain, pitched, managed memory and the 32-bit ABI. */
#include "replay.h"

static uint64_t held[PLACES];

static int keep(const struct operation *operation, int code, uint64_t address)
{
    if (code == 0)
        held[operation->place % PLACES] = address;
    return code;
}

static bool is_free(const struct operation *operation)
{
    return held[operation->place % PLACES] == 0;
}

int do_alloc(const struct operation *operation)
{
    uint64_t address = 0;
    if (!is_free(operation))
        return NOTHING_DONE;
    return keep(operation, cuMemAlloc_v2(&address, size_of(operation->size)), address);
}

int do_alloc_pitch(const struct operation *operation)
{
    uint64_t address = 0;
    size_t pitch, bytes = size_of(operation->size), width = (size_t)operation->extra * 100 + 1;
    size_t height = bytes == 0 ? 0 : bytes / width + 1;
    if (!is_free(operation))
        return NOTHING_DONE;
    return keep(operation, cuMemAllocPitch_v2(&address, &pitch, width, height, 4), address);
}

int do_alloc_managed(const struct operation *operation)
{
    uint64_t address = 0;
    if (!is_free(operation))
        return NOTHING_DONE;
    return keep(operation, cuMemAllocManaged(&address, size_of(operation->size), 1), address);
}

int do_alloc_narrow(const struct operation *operation)
{
    unsigned address = 0;
    size_t bytes = size_of(operation->size);
    if (!is_free(operation) || bytes > 100 * MIB)
        return NOTHING_DONE;
    return keep(operation, cuMemAlloc(&address, (unsigned)bytes), address);
}

int do_free(const struct operation *operation)
{
    uint64_t *address = &held[operation->place % PLACES];
    if (*address == 0)
        return NOTHING_DONE;
    int code = cuMemFree_v2(*address);
    *address = 0;
    return code;
}

int do_info(const struct operation *operation)
{
    size_t free_bytes, total;
    (void)operation;
    return cuMemGetInfo_v2(&free_bytes, &total);
}

void end_plain(void)
{
    for (int place = 0; place < PLACES; place++) {
        if (held[place] != 0)
            CHECK(cuMemFree_v2(held[place]) == 0);
        held[place] = 0;
    }
}

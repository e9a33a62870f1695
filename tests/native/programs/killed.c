/*
 * killed SEED LIMIT_MIB: allocate and free at random, in every spelling, until killed. Prints a line when it has begun.
 *
 * Sizes are multiples of 2 MiB, so that what the driver takes is what is asked for; everything the process gets it
 * keeps track of, so it never frees by mistake. Exits with 1 on any result but success and out of memory.
 */
#include <sys/types.h>

#include "driver_api.h"

enum { HELD = 24, KINDS = 8 };

static struct {
    uint64_t address;
    int kind;
} held[HELD];

static uint64_t state;

static uint64_t next(void)
{
    state ^= state << 13;
    state ^= state >> 7;
    state ^= state << 17;
    return state;
}

static handle_t pool;

static int allocate(int kind, uint64_t *address, size_t bytes)
{
    static const struct allocation_prop on_device = {.type = 1, .location = {.type = 1, .id = 0}};
    unsigned narrow = 0, narrow_pitch;
    size_t pitch;
    int code;
    switch (kind) {
    case 0:
        return cuMemAlloc_v2(address, bytes);
    case 1:
        return cuMemAllocPitch_v2(address, &pitch, 2048, bytes / 2048, 4);
    case 2:
        return cuMemCreate(address, bytes, &on_device, 0);
    case 3:
        return cuMemAllocAsync(address, bytes, NULL);
    case 4:
        return cuMemAllocAsync_ptsz(address, bytes, NULL);
    case 5:
        return cuMemAllocFromPoolAsync(address, bytes, pool, NULL);
    case 6:
        code = cuMemAlloc(&narrow, (unsigned)bytes);
        break;
    default:
        code = cuMemAllocPitch(&narrow, &narrow_pitch, 2048, (unsigned)(bytes / 2048), 4);
    }
    *address = narrow;
    return code;
}

static void release(int kind, uint64_t address)
{
    int code = kind == 2                ? cuMemRelease(address)
               : kind >= 3 && kind <= 5 ? cuMemFreeAsync(address, NULL)
               : kind >= 6              ? cuMemFree((unsigned)address)
                                        : cuMemFree_v2(address);
    CHECK(code == 0);
}

int main(int count, char **arguments)
{
    CHECK(count == 3);
    state = strtoul(arguments[1], NULL, 10) * 2654435761u + 88172645463325252u;
    size_t limit = strtoul(arguments[2], NULL, 10) * MIB;
    struct pool_props props = {.type = 1, .location = {.type = 1, .id = 0}};
    load_driver();
    CHECK(cuInit(0) == 0);
    use_device(0);
    CHECK(cuMemPoolCreate(&pool, &props) == 0);
    puts("begun");
    fflush(stdout);
    for (;;) {
        int index = (int)(next() % HELD);
        if (held[index].address != 0) {
            release(held[index].kind, held[index].address);
            held[index].address = 0;
            if (next() % 4 == 0)
                CHECK(cuStreamSynchronize(NULL) == 0);
            continue;
        }
        int kind = (int)(next() % KINDS);
        size_t bytes = (1 + next() % (limit / 8 / (2 * MIB))) * 2 * MIB;
        uint64_t address = SENTINEL;
        int code = allocate(kind, &address, bytes);
        CHECK(code == 0 || code == OUT_OF_MEMORY);
        if (code == 0) {
            held[index].address = address;
            held[index].kind = kind;
        }
    }
}

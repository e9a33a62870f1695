/*
 * region.c: anonymous mappings with the fork behaviour that region.h promises.
 */
#include "region.h"

#include <sys/mman.h>

#ifndef MADV_WIPEONFORK
#define MADV_WIPEONFORK 18
#endif

static void *map(size_t bytes, int advice)
{
    void *region =
        mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (region == MAP_FAILED)
        return NULL;
    if (madvise(region, bytes, advice) != 0) {
        munmap(region, bytes);
        return NULL;
    }
    return region;
}

void *fg_region_wiped(size_t bytes)
{
    return map(bytes, MADV_WIPEONFORK);
}

void *fg_region_private(size_t bytes)
{
    return map(bytes, MADV_DONTFORK);
}

void fg_region_free(void *region, size_t bytes)
{
    munmap(region, bytes);
}

/* What CUDA shows a program of its share. */
#include "behave.h"

void check_info_v1(void)
{
    unsigned free_bytes = 0, total = 0;
    uint64_t address;
    CHECK(cuMemGetInfo(&free_bytes, &total) == 0 && total == limit && free_bytes == limit);
    CHECK(cuMemAlloc_v2(&address, 64 * MIB) == 0);
    CHECK(cuMemGetInfo(&free_bytes, &total) == 0 && total == limit && free_bytes == limit - 64 * MIB);
}

void check_info_v2(void)
{
    size_t free_bytes = 0, total = 0;
    uint64_t address;
    CHECK(cuMemGetInfo_v2(&free_bytes, &total) == 0 && total == limit && free_bytes == limit);
    CHECK(cuMemAlloc_v2(&address, 64 * MIB) == 0);
    CHECK(cuMemGetInfo_v2(&free_bytes, &total) == 0 && total == limit && free_bytes == limit - 64 * MIB);
}

void check_total_v1(void)
{
    unsigned total = 0;
    CHECK(cuDeviceTotalMem(&total, 0) == 0 && total == limit);
    total = SENTINEL;
    CHECK(cuDeviceTotalMem(&total, 99) != 0 && total == SENTINEL);
}

void check_total_v2(void)
{
    size_t total = 0;
    CHECK(cuDeviceTotalMem_v2(&total, 0) == 0 && total == limit);
    total = SENTINEL;
    CHECK(cuDeviceTotalMem_v2(&total, 99) != 0 && total == SENTINEL);
}

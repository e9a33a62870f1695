/* ranges.c: the sorted table of every address range that the driver knows. */
#include "driver.h"

#include <stdlib.h>
#include <string.h>

static struct range *table;
static int count, capacity;
static uint64_t last_id;

/* Index of the first range that starts above the address. */
static int above(CUdeviceptr address)
{
    int low = 0, high = count;
    while (low < high) {
        int middle = low + (high - low) / 2;
        if (table[middle].start <= address) {
            low = middle + 1;
        } else {
            high = middle;
        }
    }
    return low;
}

struct range *range_at(CUdeviceptr address)
{
    int index = above(address) - 1;
    if (index < 0 || address - table[index].start >= table[index].size) {
        return NULL;
    }
    return &table[index];
}

bool range_overlaps(CUdeviceptr start, size_t size)
{
    int index = above(start);
    return range_at(start) != NULL || (index < count && table[index].start - start < size);
}

CUresult range_insert(const struct range *range)
{
    if (count == capacity) {
        int grown = capacity != 0 ? capacity * 2 : 64;
        struct range *moved = realloc(table, (size_t)grown * sizeof *table);
        REQUIRE(moved != NULL, CUDA_ERROR_OUT_OF_MEMORY);
        table = moved;
        capacity = grown;
    }
    int index = above(range->start);
    memmove(&table[index + 1], &table[index], (size_t)(count - index) * sizeof *table);
    table[index] = *range;
    table[index].id = ++last_id;
    count++;
    return CUDA_SUCCESS;
}

void range_remove(CUdeviceptr start)
{
    int index = above(start) - 1;
    if (index < 0 || table[index].start != start) {
        return;
    }
    memmove(&table[index], &table[index + 1], (size_t)(count - index - 1) * sizeof *table);
    count--;
}

int range_count(void)
{
    return count;
}

struct range *range_by_index(int index)
{
    return &table[index];
}

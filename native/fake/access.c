/* access.c: from addresses to bytes. */
#include "access.h"

static CUresult check_range(const struct range *range, enum access_side side, bool write)
{
    if (range->kind == RANGE_MAPPING) {
        REQUIRE(range->access == CU_ACCESS_READ_WRITE || (range->access == 1 && !write), CUDA_ERROR_INVALID_VALUE);
    }
    if (side == SIDE_HOST) {
        bool reachable = range->kind == RANGE_HOST || range->kind == RANGE_REGISTERED || range->kind == RANGE_MANAGED;
        REQUIRE(reachable, CUDA_ERROR_INVALID_VALUE);
    }
    return CUDA_SUCCESS;
}

CUresult access_check(CUdeviceptr address, size_t size, enum access_side side, bool write)
{
    REQUIRE(address != 0 || size == 0, CUDA_ERROR_INVALID_VALUE);
    while (size > 0) {
        const struct range *range = range_at(address);
        if (range == NULL) {
            return side == SIDE_DEVICE ? CUDA_ERROR_INVALID_VALUE : CUDA_SUCCESS;
        }
        TRY(check_range(range, side, write));
        size_t length = range->size - (size_t)(address - range->start);
        if (length >= size) {
            return CUDA_SUCCESS;
        }
        /* Only mappings may be neighbours that form one buffer; host memory may be registered in parts. */
        bool may_continue = range->kind == RANGE_MAPPING || range->kind == RANGE_REGISTERED;
        REQUIRE(may_continue, CUDA_ERROR_INVALID_VALUE);
        address += length;
        size -= length;
    }
    return CUDA_SUCCESS;
}

uint8_t *access_piece(CUdeviceptr address, size_t size, size_t *length)
{
    const struct range *range = range_at(address);
    if (range == NULL) {
        *length = size;
        return (uint8_t *)(uintptr_t)address;
    }
    size_t skip = (size_t)(address - range->start);
    *length = range->size - skip < size ? range->size - skip : size;
    return range->bytes + skip;
}

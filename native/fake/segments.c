/* segments.c: physical pieces of a device that hold several allocations: slabs for small ones, pieces of pools. */
#include "share.h"

#include <stdlib.h>
#include <string.h>

CUresult segment_create(int device, size_t size, struct segment **out)
{
    struct segment *segment = calloc(1, sizeof *segment);
    REQUIRE(segment != NULL, CUDA_ERROR_OUT_OF_MEMORY);
    CUresult rc = device_charge(device, size);
    if (rc != CUDA_SUCCESS) {
        free(segment);
        return rc;
    }
    segment->bytes = backing_map(size);
    rc = segment->bytes != NULL ? address_reserve(size, PHYSICAL_GRANULE, 0, &segment->start)
                                : CUDA_ERROR_OUT_OF_MEMORY;
    if (rc != CUDA_SUCCESS) {
        if (segment->bytes != NULL) {
            backing_unmap(segment->bytes, size);
        }
        device_discharge(device, size);
        free(segment);
        return rc;
    }
    segment->size = size;
    segment->device = device;
    *out = segment;
    return CUDA_SUCCESS;
}

void segment_destroy(struct segment *segment)
{
    address_release(segment->start, segment->size);
    if (segment->share != NULL) {
        share_drop(segment->share);
    } else {
        backing_unmap(segment->bytes, segment->size);
        device_discharge(segment->device, segment->size);
    }
    free(segment->spans);
    free(segment);
}

/* Position among the spans where a gap of that size begins, or SIZE_MAX. */
static size_t find_gap(const struct segment *segment, size_t size, size_t *offset)
{
    size_t end = 0;
    for (size_t i = 0; i <= segment->span_count; i++) {
        size_t next = i < segment->span_count ? segment->spans[i].offset : segment->size;
        if (next - end >= size) {
            *offset = end;
            return i;
        }
        if (i < segment->span_count) {
            end = next + segment->spans[i].size;
        }
    }
    return SIZE_MAX;
}

bool segment_take(struct segment *segment, size_t size, size_t *offset)
{
    size = ROUND_UP(size, ALIGNMENT);
    if (size > segment->size - segment->used) {
        return false;
    }
    size_t at = find_gap(segment, size, offset);
    if (at == SIZE_MAX) {
        return false;
    }
    if (segment->span_count == segment->span_capacity) {
        size_t grown = segment->span_capacity != 0 ? segment->span_capacity * 2 : 8;
        struct span *moved = realloc(segment->spans, grown * sizeof *moved);
        if (moved == NULL) {
            return false;
        }
        segment->spans = moved;
        segment->span_capacity = grown;
    }
    memmove(&segment->spans[at + 1], &segment->spans[at], (segment->span_count - at) * sizeof *segment->spans);
    segment->spans[at] = (struct span){ *offset, size };
    segment->span_count++;
    segment->used += size;
    return true;
}

void segment_give(struct segment *segment, size_t offset)
{
    for (size_t i = 0; i < segment->span_count; i++) {
        if (segment->spans[i].offset == offset) {
            segment->used -= segment->spans[i].size;
            segment->span_count--;
            memmove(&segment->spans[i], &segment->spans[i + 1], (segment->span_count - i) * sizeof *segment->spans);
            return;
        }
    }
}

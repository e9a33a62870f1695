/* arrays_api.h: the structures that calls about CUDA arrays take. */
#ifndef TESTS_ARRAYS_API_H
#define TESTS_ARRAYS_API_H

#include "driver_api.h"

enum { FORMAT_UINT8 = 0x01, FORMAT_FLOAT = 0x20 };
enum { ARRAY_LAYERED = 0x01, ARRAY_SPARSE = 0x40, ARRAY_DEFERRED = 0x80 };
enum { MAP_ARRAY = 0, MAP_MIPMAP = 1, MAP_LEVEL = 0, MAP_TAIL = 1, MAP_ON = 1, MAP_OFF = 2 };
#define TILE ((size_t)65536)

struct array_shape {
    size_t width, height, depth;
    int format;
    unsigned channels, flags;
};

struct array_shape_v1 {
    unsigned width, height, depth;
    int format;
    unsigned channels, flags;
};

struct array_shape_2d {
    size_t width, height;
    int format;
    unsigned channels;
};

struct array_shape_2d_v1 {
    unsigned width, height;
    int format;
    unsigned channels;
};

struct array_map {
    int resource_type;
    handle_t resource;
    int subresource_type;
    union {
        struct {
            unsigned level, layer, x, y, z, width, height, depth;
        } part;
        struct {
            unsigned layer;
            uint64_t offset, bytes;
        } tail;
    } at;
    int operation, handle_type;
    uint64_t memory, offset;
    unsigned device_mask, flags, reserved[2];
};

/* Physical memory that arrays can be mapped onto; the driver's answer. */
static inline int create_tile_pool(uint64_t *handle, size_t bytes)
{
    struct allocation_prop prop = {.type = 1, .location = {.type = 1, .id = 0}, .flags = {[2] = 1}};
    return cuMemCreate(handle, bytes, &prop, 0);
}

#endif

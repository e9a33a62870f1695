/*
 * array_size.c: see array_size.h.
 *
 * GPUs keep images of two and three dimensions in blocks: 64 bytes wide, a power of two of 8 rows high, and in three
 * dimensions a power of two of slices deep. A block is at most 32 times as high and deep as the smallest one, and no
 * larger than the image needs.
 */
#include "array_size.h"

#include <stdbool.h>

#include "../limiter/amount.h"

#define BLOCK_WIDTH_BYTES 64u
#define BLOCK_ROWS_LEAST  8u
#define BLOCK_ROWS_MOST   256u
#define BLOCK_SLICES_MOST 32u
#define ROW_BYTES         512u            /* what a one-dimensional array's rows are aligned to */
#define LAYER_BYTES       (BLOCK_WIDTH_BYTES * BLOCK_ROWS_MOST)
#define IMAGE_BYTES       (UINT64_C(64) << 10)
#define LARGEST_ELEMENT   16u

/* One plane of a format; `chroma` more of them, halved by the shifts. */
struct element {
    unsigned int bytes;                /* of an element, or of a square block of elements */
    unsigned int block;
    unsigned int chroma;
    unsigned int x_shift;
    unsigned int y_shift;
};

static unsigned int channel_bytes(int format)
{
    switch (format) {
    case 0x01: case 0x08:
        return 1;
    case 0x02: case 0x09: case 0x10:
        return 2;
    case 0x03: case 0x0a: case 0x20:
        return 4;
    default:
        return 0;
    }
}

/* YUV in planes; two channels in one plane need no more than each in a plane of its own. */
static bool planar(int format, struct element *element)
{
    element->chroma = 2;
    switch (format) {
    case 0x9f: case 0xa1: case 0x54: case 0x5a:
        element->bytes = 2;
        element->x_shift = element->y_shift = 1;
        return true;
    case 0xb0: case 0x53: case 0x59:
        element->x_shift = element->y_shift = 1;
        return true;
    case 0xa3: case 0xa4: case 0x56: case 0x5c:
        element->bytes = 2;
        element->x_shift = 1;
        return true;
    case 0xa2: case 0x55: case 0x5b:
        element->x_shift = 1;
        return true;
    case 0xb3: case 0xb5: case 0x58: case 0x5e:
        element->bytes = 2;
        return true;
    case 0xb2: case 0xb4: case 0x57: case 0x5d:
        return true;
    default:
        element->chroma = 0;
        return false;
    }
}

static struct element element_of(const struct fg_array_shape *shape)
{
    struct element element = {.bytes = 1, .block = 1};
    int format = shape->format;
    if (channel_bytes(format) != 0) {
        element.bytes = (unsigned int)fg_min(channel_bytes(format) * (uint64_t)shape->channels, LARGEST_ELEMENT);
    } else if (format >= 0xc0 && format <= 0xcb) {
        /* 8 and 16 bits, of 1, 2 and 4 channels each */
        element.bytes = (unsigned int)((format - 0xc0) / 3 % 2 + 1) << (format - 0xc0) % 3;
    } else if (format >= 0x91 && format <= 0x9e) {
        element.block = 4;
        element.bytes = format <= 0x92 || format == 0x97 || format == 0x98 ? 8 : 16;
    } else if (format == 0xa5 || format == 0x51) {
        element.bytes = 2;
    } else if ((format >= 0xa6 && format <= 0xa9) || format == 0x50 || format == 0x52) {
        element.bytes = 4;
    } else if (format == 0xb1) {
        element.bytes = 8;
    } else if (!planar(format, &element)) {
        element.bytes = LARGEST_ELEMENT;   /* newer than this list */
    }
    return element;
}

static uint64_t level_extent(uint64_t extent, unsigned int level)
{
    return extent >> level > 1 ? extent >> level : 1;
}

static uint64_t divided(uint64_t count, unsigned int unit)
{
    return count / unit + (count % unit != 0);
}

/* A power of two that `count` fits into, within bounds; then as many of these as it needs. */
static uint64_t in_blocks(uint64_t count, uint64_t least, uint64_t most)
{
    uint64_t block = least;
    while (block < most && block < count)
        block *= 2;
    return fg_round_up(count, block);
}

struct image {
    uint64_t width, height, depth;
    bool flat;                         /* one dimension */
};

static uint64_t plane_bytes(const struct image *image, const struct element *element, unsigned int x_shift,
                            unsigned int y_shift)
{
    uint64_t columns = divided(divided(image->width, 1u << x_shift), element->block);
    uint64_t row = fg_multiply(columns, element->bytes);
    if (image->flat)
        return fg_round_up(row, ROW_BYTES);
    uint64_t rows = divided(divided(image->height, 1u << y_shift), element->block);
    uint64_t slice = fg_multiply(fg_round_up(row, BLOCK_WIDTH_BYTES),
                                 in_blocks(rows, BLOCK_ROWS_LEAST, BLOCK_ROWS_MOST));
    return fg_multiply(slice, in_blocks(image->depth, 1, BLOCK_SLICES_MOST));
}

uint64_t fg_array_estimate(const struct fg_array_shape *shape, unsigned int levels)
{
    bool layered = (shape->flags & (CUDA_ARRAY3D_LAYERED | CUDA_ARRAY3D_CUBEMAP)) != 0;
    bool flat = shape->height == 0;
    struct element element = element_of(shape);
    uint64_t depth = layered ? 1 : shape->depth;
    uint64_t longest = shape->width > shape->height ? shape->width : shape->height;
    longest = depth > longest ? depth : longest;
    uint64_t layer = 0;
    for (unsigned int level = 0; level == 0 || (level < levels && level < 64 && longest >> level != 0); level++) {
        struct image image = {.width = level_extent(shape->width, level), .height = level_extent(shape->height, level),
                              .depth = level_extent(depth, level), .flat = flat};
        layer = fg_add(layer, plane_bytes(&image, &element, 0, 0));
        layer = fg_add(layer, fg_multiply(element.chroma,
                                          plane_bytes(&image, &element, element.x_shift, element.y_shift)));
    }
    uint64_t layers = layered ? shape->depth : 1;
    if (layers > 1 && !flat)
        layer = fg_round_up(layer, LAYER_BYTES);
    return fg_round_up(fg_multiply(layer, layers), flat ? ROW_BYTES : IMAGE_BYTES);
}

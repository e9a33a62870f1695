/* array_shape.c: see array_shape.h. */
#include "array_shape.h"

#define GOB_BYTES ((size_t)64)            /* the smallest block: 64 bytes of 8 rows */
#define GOB_ROWS ((size_t)8)
#define BLOCK_GOBS ((size_t)16)
#define KNOWN_FLAGS 0x1ffu
#define SPARSE_OR_DEFERRED (ARRAY_SPARSE | ARRAY_DEFERRED)

static size_t ceiling(size_t n, size_t unit) { return (n + unit - 1) / unit; }
static size_t smaller(size_t n, unsigned level) { return n >> level > 1 ? n >> level : 1; }

/* The largest extents of each kind; those of a compute capability 9.0 card. */
static bool fits(const CUarray3dDescriptor *d, unsigned dimensions, bool layered)
{
    size_t flat = layered ? 32768 : 131072;
    if (d->flags & ARRAY_GATHER) {
        return dimensions == 2 && !layered && d->width <= 32768 && d->height <= 32768;
    }
    if (layered && d->depth > 2048) {
        return false;
    }
    if (dimensions < 3) {
        return d->width <= flat && d->height <= (layered ? 32768 : 65536);
    }
    return (d->width <= 16384 && d->height <= 16384 && d->depth <= 16384) ||
           (d->width <= 8192 && d->height <= 8192 && d->depth <= 32768);
}

static CUresult check(struct shape *s)
{
    const CUarray3dDescriptor *d = &s->descriptor;
    bool layered = (d->flags & (ARRAY_LAYERED | ARRAY_CUBEMAP)) != 0;
    REQUIRE((d->flags & ~KNOWN_FLAGS) == 0 && d->width > 0, CUDA_ERROR_INVALID_VALUE);
    REQUIRE((d->flags & SPARSE_OR_DEFERRED) != SPARSE_OR_DEFERRED, CUDA_ERROR_INVALID_VALUE);
    REQUIRE(d->height > 0 || d->depth == 0 || layered, CUDA_ERROR_INVALID_VALUE);
    REQUIRE(d->depth > 0 || !layered, CUDA_ERROR_INVALID_VALUE);
    if (d->flags & ARRAY_CUBEMAP) {
        REQUIRE(d->width == d->height && d->depth % 6 == 0, CUDA_ERROR_INVALID_VALUE);
        REQUIRE(d->depth == 6 || (d->flags & ARRAY_LAYERED) != 0, CUDA_ERROR_INVALID_VALUE);
    }
    s->dimensions = d->height == 0 ? 1 : d->depth == 0 || layered ? 2 : 3;
    s->layers = layered ? d->depth : 1;
    REQUIRE(fits(d, s->dimensions, layered), CUDA_ERROR_INVALID_VALUE);
    /* Only what has two dimensions or more can be mapped (cuMemMapArrayAsync). */
    REQUIRE((d->flags & SPARSE_OR_DEFERRED) == 0 || s->dimensions > 1, CUDA_ERROR_INVALID_VALUE);
    s->plane_count = format_planes(d->format, d->channels, s->planes);
    REQUIRE(s->plane_count > 0, CUDA_ERROR_INVALID_VALUE);
    REQUIRE(s->plane_count == 1 || (s->dimensions == 2 && s->levels == 1 && (d->flags & ARRAY_SPARSE) == 0),
            CUDA_ERROR_INVALID_VALUE);
    return CUDA_SUCCESS;
}

struct extent shape_level(const struct shape *s, unsigned level)
{
    const CUarray3dDescriptor *d = &s->descriptor;
    return (struct extent){ smaller(d->width, level), s->dimensions > 1 ? smaller(d->height, level) : 1,
                            s->dimensions > 2 ? smaller(d->depth, level) : 1 };
}

struct rows shape_rows(const struct shape *s, unsigned level, int index)
{
    const struct plane *plane = &s->planes[index];
    struct extent e = shape_level(s, level);
    size_t width = ceiling(e.width, (size_t)1 << plane->x_shift), height = ceiling(e.height, (size_t)1 << plane->y_shift);
    return (struct rows){ ceiling(width, plane->block) * plane->bytes, ceiling(height, plane->block), e.depth };
}

/* The largest block that is not more than twice what it has to hold. */
static size_t in_blocks(size_t n, size_t unit)
{
    size_t block = unit * BLOCK_GOBS;
    while (block > unit && block / 2 >= n) {
        block /= 2;
    }
    return ROUND_UP(n, block);
}

static size_t plane_bytes(const struct shape *s, unsigned level, int plane)
{
    struct rows rows = shape_rows(s, level, plane);
    if (s->dimensions == 1) {
        return ROUND_UP(rows.bytes, ROW_ALIGNMENT);
    }
    return ROUND_UP(rows.bytes, GOB_BYTES) * in_blocks(rows.count, GOB_ROWS) * in_blocks(rows.slices, 1);
}

struct extent shape_tiles(const struct shape *s, unsigned level)
{
    struct extent e = shape_level(s, level);
    return (struct extent){ ceiling(e.width, s->tile.width), ceiling(e.height, s->tile.height),
                            ceiling(e.depth, s->tile.depth) };
}

static size_t level_bytes(const struct shape *s, unsigned level)
{
    if ((s->descriptor.flags & ARRAY_SPARSE) != 0 && level < s->tail_level) {
        struct extent tiles = shape_tiles(s, level);
        return tiles.width * tiles.height * tiles.depth * ARRAY_PAGE;
    }
    size_t bytes = 0;
    for (int plane = 0; plane < s->plane_count; plane++) {
        bytes += plane_bytes(s, level, plane);
    }
    return bytes;
}

size_t shape_offset(const struct shape *s, unsigned level, int plane)
{
    size_t offset = 0;
    for (unsigned before = 0; before < level; before++) {
        offset += level_bytes(s, before);
    }
    for (int before = 0; before < plane; before++) {
        offset += plane_bytes(s, level, before);
    }
    return offset;
}

/* 64 KiB as nearly square or cubic as its elements allow: halves in turn, the width last to shrink. */
static void make_tile(struct shape *s)
{
    static const struct extent flat[] = { { 256, 256, 1 }, { 256, 128, 1 }, { 128, 128, 1 }, { 128, 64, 1 }, { 64, 64, 1 } };
    static const struct extent deep[] = { { 64, 32, 32 }, { 32, 32, 32 }, { 32, 32, 16 }, { 32, 16, 16 }, { 16, 16, 16 } };
    const struct plane *plane = &s->planes[0];
    int power = 0;
    while (1u << power < plane->bytes) {
        power++;
    }
    s->tile = s->dimensions == 3 ? deep[power] : flat[power];
    s->tile.width *= plane->block;
    s->tile.height *= plane->block;
}

static void find_tail(struct shape *s)
{
    s->tail_level = s->levels;
    for (unsigned level = s->levels; level-- > 0;) {
        struct extent e = shape_level(s, level);
        if (e.width >= s->tile.width && e.height >= s->tile.height && e.depth >= s->tile.depth) {
            break;
        }
        s->tail_level = level;
    }
    for (unsigned level = s->tail_level; level < s->levels; level++) {
        s->tail_bytes += level_bytes(s, level);
    }
    s->tail_bytes = ROUND_UP(s->tail_bytes, ARRAY_PAGE);
}

CUresult shape_make(struct shape *s, const CUarray3dDescriptor *descriptor, unsigned levels)
{
    size_t longest = descriptor->width > descriptor->height ? descriptor->width : descriptor->height;
    bool deep = descriptor->height > 0 && (descriptor->flags & (ARRAY_LAYERED | ARRAY_CUBEMAP)) == 0;
    longest = deep && descriptor->depth > longest ? descriptor->depth : longest;
    unsigned possible = 1;
    while (longest >> possible > 0) {
        possible++;
    }
    *s = (struct shape){ .descriptor = *descriptor, .levels = levels < 1 ? 1 : levels < possible ? levels : possible };
    TRY(check(s));
    s->alignment = s->dimensions == 1 ? ROW_ALIGNMENT : ARRAY_PAGE;
    if (descriptor->flags & ARRAY_SPARSE) {
        make_tile(s);
        find_tail(s);
        s->layer_bytes = shape_offset(s, s->tail_level, 0) + s->tail_bytes;
    } else {
        s->layer_bytes = shape_offset(s, s->levels, 0);
    }
    s->bytes = ROUND_UP(s->layer_bytes * s->layers, s->alignment);
    return CUDA_SUCCESS;
}

/*
 * array_map.c: cuMemMapArrayAsync: physical memory below the tiles of sparse arrays, or below an array with deferred
 * mapping as a whole. Each tile holds a reference to what is mapped there, until something else or nothing is.
 */
#include "array.h"
#include "physical.h"

enum { RESOURCE_ARRAY = 0, RESOURCE_MIPMAP = 1 };
enum { SUBRESOURCE_LEVEL = 0, SUBRESOURCE_TAIL = 1 };
enum { OPERATION_MAP = 1, OPERATION_UNMAP = 2 };

typedef struct {
    int resource_type;
    union { CUarray array; CUmipmappedArray mipmap; } resource;
    int subresource_type;
    union {
        struct { unsigned level, layer, x, y, z, width, height, depth; } part;
        struct { unsigned layer; unsigned long long offset, size; } tail;
    } subresource;
    int operation;
    int handle_type;
    CUmemHandle handle;
    unsigned long long offset;
    unsigned device_mask, flags, reserved[2];
} CUarrayMapInfo;
_Static_assert(sizeof(CUarrayMapInfo) == 96, "as in cuda.h");

/* Tiles in each dimension, and how they follow one another in image.tiles. */
struct region { size_t first, row, slice, width, height, depth; };

static CUresult image_of(struct image **out, const CUarrayMapInfo *info)
{
    if (info->resource_type == RESOURCE_ARRAY) {
        REQUIRE(array_known(info->resource.array) && info->resource.array->whole, CUDA_ERROR_INVALID_VALUE);
        *out = info->resource.array->image;
    } else {
        REQUIRE(info->resource_type == RESOURCE_MIPMAP && mipmap_known(info->resource.mipmap),
                CUDA_ERROR_INVALID_VALUE);
        *out = info->resource.mipmap->image;
    }
    REQUIRE((*out)->kind == IMAGE_MAPPABLE, CUDA_ERROR_INVALID_VALUE);
    return CUDA_SUCCESS;
}

/* [start, start + length) of `whole` elements in tiles of `tile`; the last tile may reach beyond the image. */
static bool in_tiles(size_t start, size_t length, size_t whole, size_t tile)
{
    return start % tile == 0 && length > 0 && start + length <= ROUND_UP(whole, tile) &&
           (length % tile == 0 || start + length == whole);
}

static CUresult region_of_level(struct region *out, const struct shape *shape, const CUarrayMapInfo *info)
{
    unsigned level = info->subresource.part.level, layer = info->subresource.part.layer;
    REQUIRE(level < shape->tail_level && layer < shape->layers, CUDA_ERROR_INVALID_VALUE);
    struct extent whole = shape_level(shape, level), tiles = shape_tiles(shape, level), tile = shape->tile;
    size_t x = info->subresource.part.x, y = info->subresource.part.y, z = info->subresource.part.z;
    size_t width = info->subresource.part.width, height = info->subresource.part.height;
    size_t depth = info->subresource.part.depth;
    REQUIRE(in_tiles(x, width, whole.width, tile.width) && in_tiles(y, height, whole.height, tile.height) &&
            in_tiles(z, depth, whole.depth, tile.depth), CUDA_ERROR_INVALID_VALUE);
    size_t first = (layer * shape->layer_bytes + shape_offset(shape, level, 0)) / ARRAY_PAGE;
    *out = (struct region){ .row = tiles.width, .slice = tiles.width * tiles.height };
    out->first = first + z / tile.depth * out->slice + y / tile.height * out->row + x / tile.width;
    out->width = (width + tile.width - 1) / tile.width;
    out->height = (height + tile.height - 1) / tile.height;
    out->depth = (depth + tile.depth - 1) / tile.depth;
    return CUDA_SUCCESS;
}

static CUresult region_of(struct region *out, const struct image *image, const CUarrayMapInfo *info)
{
    const struct shape *shape = &image->shape;
    *out = (struct region){ .first = 0, .width = 1, .height = 1, .depth = 1 };
    if ((shape->descriptor.flags & ARRAY_SPARSE) == 0) {
        return CUDA_SUCCESS;              /* deferred mapping: all at once, whatever else the program says */
    }
    if (info->subresource_type == SUBRESOURCE_LEVEL) {
        return region_of_level(out, shape, info);
    }
    REQUIRE(info->subresource_type == SUBRESOURCE_TAIL, CUDA_ERROR_INVALID_VALUE);
    unsigned layer = info->subresource.tail.layer;
    unsigned long long offset = info->subresource.tail.offset, size = info->subresource.tail.size;
    REQUIRE(layer < shape->layers && size > 0 && offset % ARRAY_PAGE == 0 && size % ARRAY_PAGE == 0,
            CUDA_ERROR_INVALID_VALUE);
    REQUIRE(offset <= shape->tail_bytes && size <= shape->tail_bytes - offset, CUDA_ERROR_INVALID_VALUE);
    out->first = (layer * shape->layer_bytes + shape_offset(shape, shape->tail_level, 0) + offset) / ARRAY_PAGE;
    out->width = size / ARRAY_PAGE;
    return CUDA_SUCCESS;
}

static CUresult check_memory(struct physical **out, const struct image *image, const struct region *region,
                             const CUarrayMapInfo *info, int device)
{
    *out = NULL;
    REQUIRE(info->operation == OPERATION_MAP || info->operation == OPERATION_UNMAP, CUDA_ERROR_INVALID_VALUE);
    if (info->operation == OPERATION_UNMAP) {
        REQUIRE(info->handle == 0, CUDA_ERROR_INVALID_VALUE);
        return CUDA_SUCCESS;
    }
    REQUIRE(info->handle_type == 0, CUDA_ERROR_INVALID_VALUE);
    bool sparse = (image->shape.descriptor.flags & ARRAY_SPARSE) != 0;
    size_t bytes = sparse ? region->width * region->height * region->depth * ARRAY_PAGE : image->shape.bytes;
    REQUIRE(info->offset % ARRAY_PAGE == 0, CUDA_ERROR_INVALID_VALUE);
    return physical_for_tiles(out, info->handle, device, info->offset, bytes);
}

static CUresult examine(struct image **image, struct region *region, struct physical **memory,
                        const CUarrayMapInfo *info, int device)
{
    REQUIRE(info->flags == 0 && info->reserved[0] == 0 && info->reserved[1] == 0, CUDA_ERROR_INVALID_VALUE);
    REQUIRE(info->device_mask == 1u << device, CUDA_ERROR_INVALID_VALUE);
    TRY(image_of(image, info));
    TRY(region_of(region, *image, info));
    return check_memory(memory, *image, region, info, device);
}

static void put(struct physical **tile, struct physical *memory)
{
    struct physical *former = *tile;
    *tile = memory;
    if (memory != NULL) {
        physical_hold(memory);
    }
    if (former != NULL) {
        physical_drop(former);
    }
}

static void apply(struct image *image, const struct region *region, struct physical *memory)
{
    for (size_t z = 0; z < region->depth; z++) {
        for (size_t y = 0; y < region->height; y++) {
            for (size_t x = 0; x < region->width; x++) {
                put(&image->tiles[region->first + z * region->slice + y * region->row + x], memory);
            }
        }
    }
}

void image_unmap(struct image *image)
{
    for (size_t tile = 0; tile < image->tile_count; tile++) {
        put(&image->tiles[tile], NULL);
    }
}

STREAM_API(cuMemMapArrayAsync, _ptsz, (CUarrayMapInfo *list, unsigned count, CUstream stream), (list, count, stream))
{
    int device;
    TRY(stream_device(stream, &device));
    REQUIRE(list != NULL && count > 0, CUDA_ERROR_INVALID_VALUE);
    for (int pass = 0; pass < 2; pass++) {
        for (unsigned i = 0; i < count; i++) {
            struct image *image;
            struct region region;
            struct physical *memory;
            TRY(examine(&image, &region, &memory, &list[i], device));
            if (pass == 1) {
                apply(image, &region, memory);
            }
        }
    }
    return CUDA_SUCCESS;
}

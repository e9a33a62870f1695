/*
 * array_tiles.c: cuMemMapArrayAsync: physical memory below the tiles of arrays.
 *
 * A tile refers to the physical memory (vmm.h) that is mapped there, until other memory or none is, or the array is
 * destroyed. Each tile that was ever mapped has an entry in `tiles`, found by array and position; those of one array are
 * chained, and stay in the chain when they refer to nothing. An array with deferred mapping is one tile.
 *
 * A mapping is taken for done when the call returns, although the stream may be behind.
 */
#include "array_tiles.h"

#include "capture_mode.h"
#include "real.h"
#include "vmm.h"

/* How many entries of one call are held on to while the driver works. */
enum { MAP_BATCH = 128 };

/* What a mip tail is divided into. */
#define TAIL_UNIT_BYTES UINT64_C(65536)

struct position {
    uint64_t array;                    /* serial number */
    uint32_t part;                     /* level, or TAIL, or WHOLE */
    uint32_t layer;
    uint64_t x, y, z;                  /* in tiles */
};
#define TAIL  UINT32_MAX
#define WHOLE (UINT32_MAX - 1)

struct fg_value fg_tiles_none(struct fg_process *process)
{
    uint64_t serial = __atomic_add_fetch(&process->last_serial, 1, __ATOMIC_RELAXED);
    return (struct fg_value){.bytes = serial, .link = 0, .member = 0, .kind = FG_TILES};
}

static uint64_t mix(uint64_t hash, uint64_t word)
{
    hash = (hash ^ word) * UINT64_C(0x9e3779b97f4a7c15);
    hash ^= hash >> 32;
    hash *= UINT64_C(0xd6e8feb86659fd93);
    return hash ^ hash >> 29;
}

/* Two positions never share a key but by a chance of one in 2^64. */
static uint64_t key_of(const struct position *at)
{
    uint64_t key = mix(mix(mix(at->array, (uint64_t)at->part << 32 | at->layer), at->x), at->y << 32 | at->z);
    return key == 0 || key == UINT64_MAX ? 1 : key;
}

/* A new entry of the chain that begins in the array's value. */
static void chain(struct fg_process *process, struct fg_value *array, uint64_t key, uint64_t serial)
{
    uint64_t newest = __atomic_load_n(&array->link, __ATOMIC_ACQUIRE);
    struct fg_value tile = {.bytes = serial, .link = newest, .member = 0, .kind = FG_TILES};
    /* A tile that can not be remembered keeps its memory charged. */
    if (!fg_table_insert(&process->tiles, key, &tile))
        return;
    struct fg_value *placed = fg_table_find(&process->tiles, key);
    while (placed != NULL &&
           !__atomic_compare_exchange_n(&array->link, &newest, key, 0, __ATOMIC_ACQ_REL, __ATOMIC_ACQUIRE))
        placed->link = newest;
}

/* From now on memory `serial`, or none (0), is mapped there. */
static void put(struct fg_process *process, struct fg_value *array, const struct position *at, uint64_t serial)
{
    uint64_t key = key_of(at);
    struct fg_value *tile = fg_table_find(&process->tiles, key);
    if (serial != 0)
        fg_physical_hold(process, serial);
    if (tile == NULL) {
        if (serial != 0)
            chain(process, array, key, serial);
        return;
    }
    uint64_t former = __atomic_exchange_n(&tile->bytes, serial, __ATOMIC_ACQ_REL);
    if (former != 0)
        fg_physical_drop(process, former);
}

void fg_tiles_forget(struct fg_process *process, const struct fg_value *array)
{
    struct fg_value tile;
    for (uint64_t key = array->link; key != 0 && fg_table_take(&process->tiles, key, &tile); key = tile.link) {
        if (tile.bytes != 0)
            fg_physical_drop(process, tile.bytes);
    }
}

/* Of a sparse array: the extent of a tile. False for one with deferred mapping, which is mapped as a whole. */
static bool tile_extent(const struct fg_array_map *map, struct fg_sparse_properties *properties)
{
    CUresult code = map->resource_type == CU_RESOURCE_TYPE_MIPMAPPED_ARRAY
                        ? FG_CALL(cuMipmappedArrayGetSparseProperties, properties, map->resource.mipmap)
                        : FG_CALL(cuArrayGetSparseProperties, properties, map->resource.array);
    return code == CUDA_SUCCESS && properties->width != 0 && properties->height != 0 && properties->depth != 0;
}

static uint64_t tiles_to(uint64_t offset, uint64_t extent, uint64_t tile)
{
    return (offset + extent + tile - 1) / tile;
}

static void put_level(struct fg_process *process, struct fg_value *array, const struct fg_array_map *map,
                      const struct fg_sparse_properties *tile, uint64_t serial)
{
    const struct fg_array_part *part = &map->subresource.part;
    uint64_t x_end = tiles_to(part->x, part->width, tile->width);
    uint64_t y_end = tiles_to(part->y, part->height, tile->height);
    uint64_t z_end = tiles_to(part->z, part->depth, tile->depth);
    struct position at = {.array = array->bytes, .part = part->level, .layer = part->layer};
    for (at.z = part->z / tile->depth; at.z < z_end; at.z++) {
        for (at.y = part->y / tile->height; at.y < y_end; at.y++) {
            for (at.x = part->x / tile->width; at.x < x_end; at.x++)
                put(process, array, &at, serial);
        }
    }
}

/* The driver has accepted it, so its numbers are those of an array that exists. */
static void mapped(struct fg_process *process, const struct fg_array_map *map, uint64_t serial)
{
    bool mipmapped = map->resource_type == CU_RESOURCE_TYPE_MIPMAPPED_ARRAY;
    struct fg_table *table = mipmapped ? &process->mipmaps : &process->arrays;
    struct fg_value *array = fg_table_find(table, (uintptr_t)map->resource.array);
    struct fg_sparse_properties tile = {.width = 0};
    if (array == NULL || array->kind != FG_TILES) {
        /* Not remembered when it was made: the memory stays charged until the process ends. */
        if (serial != 0)
            fg_physical_hold(process, serial);
        return;
    }
    struct position at = {.array = array->bytes, .part = WHOLE};
    if (!tile_extent(map, &tile)) {
        put(process, array, &at, serial);
        return;
    }
    if (map->subresource_type == CU_ARRAY_SPARSE_SUBRESOURCE_TYPE_SPARSE_LEVEL) {
        put_level(process, array, map, &tile, serial);
        return;
    }
    at.part = TAIL;
    at.layer = map->subresource.tail.layer;
    uint64_t end = tiles_to(map->subresource.tail.offset, map->subresource.tail.bytes, TAIL_UNIT_BYTES);
    for (at.x = map->subresource.tail.offset / TAIL_UNIT_BYTES; at.x < end; at.x++)
        put(process, array, &at, serial);
}

/* The memory that an entry maps, as long as the handle is good; 0 for an unmapping, and for memory that is not ours. */
static uint64_t hold(struct fg_process *process, const struct fg_array_map *map)
{
    return map->operation == CU_MEM_OPERATION_TYPE_MAP ? fg_physical_hold_handle(process, map->handle) : 0;
}

/* Before the call the memory is held once for each entry, so that a release in another thread does not end its charge. */
static void conclude(CUresult code, struct fg_process *process, const struct fg_array_map *list, unsigned int count,
                     const uint64_t *serials, unsigned int held)
{
    int mode = fg_capture_relax();
    for (unsigned int index = 0; index < count; index++) {
        uint64_t serial = index < held ? serials[index] : code == CUDA_SUCCESS ? hold(process, &list[index]) : 0;
        if (code == CUDA_SUCCESS)
            mapped(process, &list[index], serial);
        if (serial != 0)
            fg_physical_drop(process, serial);
    }
    fg_capture_restore(mode);
}

#define MAP_HOOK(name) \
    CUresult fg_hook_##name(struct fg_array_map *list, unsigned int count, CUstream stream) \
    { \
        uint64_t serials[MAP_BATCH]; \
        struct fg_process *process = list == NULL ? NULL : fg_process_attached(); \
        unsigned int held = 0; \
        for (; process != NULL && held < count && held < MAP_BATCH; held++) \
            serials[held] = hold(process, &list[held]); \
        CUresult code = FG_CALL(name, list, count, stream); \
        if (process != NULL) \
            conclude(code, process, list, count, serials, held); \
        return code; \
    }

MAP_HOOK(cuMemMapArrayAsync)
MAP_HOOK(cuMemMapArrayAsync_ptsz)

/* The subjects of faults: arrays, mipmapped arrays, and memory that is mapped onto sparse ones. */
#include "arrays_api.h"
#include "faults.h"

#define WIDTH 1024
#define ROWS ((unsigned)(BYTES / ((size_t)WIDTH * 16)))

static const struct array_shape_2d_v1 shape_2d_v1 = {WIDTH, ROWS, FORMAT_FLOAT, 4};
static const struct array_shape_2d shape_2d = {WIDTH, ROWS, FORMAT_FLOAT, 4};
static const struct array_shape_v1 shape_v1 = {WIDTH, 128, 4, FORMAT_FLOAT, 4, ARRAY_LAYERED};
static const struct array_shape shape = {WIDTH, ROWS, 0, FORMAT_FLOAT, 4, 0};
static const struct array_shape sparse = {1024, 1024, 0, FORMAT_UINT8, 1, ARRAY_SPARSE};

static handle_t array;
static uint64_t memory;

TAKER(create_v1, array, (uintptr_t)SENTINEL, cuArrayCreate(&result, &shape_2d_v1))
TAKER(create_v2, array, (uintptr_t)SENTINEL, cuArrayCreate_v2(&result, &shape_2d))
TAKER(create_3d_v1, array, (uintptr_t)SENTINEL, cuArray3DCreate(&result, &shape_v1))
TAKER(create_3d_v2, array, (uintptr_t)SENTINEL, cuArray3DCreate_v2(&result, &shape))
TAKER(create_mipmap, array, (uintptr_t)SENTINEL, cuMipmappedArrayCreate(&result, &shape, 3))

static int destroy(void) { return cuArrayDestroy(array); }
static int destroy_mipmap(void) { return cuMipmappedArrayDestroy(array); }

static struct array_map one_tile(int operation)
{
    return (struct array_map){.resource = array, .at.part = {.width = 256, .height = 256, .depth = 1},
                              .operation = operation, .memory = operation == MAP_ON ? memory : 0, .device_mask = 1};
}

static int map(void)
{
    struct array_map tile = one_tile(MAP_ON);
    return cuMemMapArrayAsync(&tile, 1, NULL);
}

static int map_ptsz(void)
{
    struct array_map tile = one_tile(MAP_ON);
    return cuMemMapArrayAsync_ptsz(&tile, 1, NULL);
}

MUST(created, create_v2)
MUST(created_mipmap, create_mipmap)
MUST(destroyed, destroy)
MUST(destroyed_mipmap, destroy_mipmap)

static void nothing(void) {}

static void array_and_tiles(void)
{
    CHECK(cuArray3DCreate_v2(&array, &sparse) == 0 && create_tile_pool(&memory, 2 * MIB) == 0);
}

static void unmapped(void)
{
    struct array_map tile = one_tile(MAP_OFF);
    CHECK(cuMemRelease(memory) == 0 && cuMemMapArrayAsync(&tile, 1, NULL) == 0);
    destroyed();
}

const struct subject array_subjects[] = {
    {"cuArrayCreate", NULL, create_v1, destroyed},
    {"cuArrayCreate_v2", NULL, create_v2, destroyed},
    {"cuArray3DCreate", NULL, create_3d_v1, destroyed},
    {"cuArray3DCreate_v2", NULL, create_3d_v2, destroyed},
    {"cuMipmappedArrayCreate", NULL, create_mipmap, destroyed_mipmap},
    {"cuArrayDestroy", created, destroy, nothing},
    {"cuMipmappedArrayDestroy", created_mipmap, destroy_mipmap, nothing},
    {"cuMemMapArrayAsync", array_and_tiles, map, unmapped},
    {"cuMemMapArrayAsync_ptsz", array_and_tiles, map_ptsz, unmapped},
    {NULL, NULL, NULL, NULL},
};

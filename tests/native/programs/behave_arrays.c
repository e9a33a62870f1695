/* CUDA arrays and mipmapped arrays: what they take is charged before they exist, and what is mapped onto them is held. */
#include "arrays_api.h"
#include "behave.h"

/* Rows of 16 KiB: a multiple of 128 of them takes what it holds. */
#define WIDTH 1024
#define ROW_BYTES ((size_t)WIDTH * 16)

static int array_v1(uint64_t *result, size_t bytes)
{
    struct array_shape_2d_v1 shape = {WIDTH, (unsigned)(bytes / ROW_BYTES), FORMAT_FLOAT, 4};
    return cuArrayCreate((handle_t *)result, &shape);
}

static int array_v2(uint64_t *result, size_t bytes)
{
    struct array_shape_2d shape = {WIDTH, bytes / ROW_BYTES, FORMAT_FLOAT, 4};
    return cuArrayCreate_v2((handle_t *)result, &shape);
}

/* Layers of 2 MiB. */
static int array_3d_v1(uint64_t *result, size_t bytes)
{
    struct array_shape_v1 shape = {WIDTH, 128, (unsigned)(bytes / (2 * MIB)), FORMAT_FLOAT, 4, ARRAY_LAYERED};
    return cuArray3DCreate((handle_t *)result, &shape);
}

/* Slices of 256 KiB. */
static int array_3d_v2(uint64_t *result, size_t bytes)
{
    struct array_shape shape = {128, 128, bytes / (MIB / 4), FORMAT_FLOAT, 4, 0};
    return cuArray3DCreate_v2((handle_t *)result, &shape);
}

static int mipmap_of_one(uint64_t *result, size_t bytes)
{
    struct array_shape shape = {WIDTH, bytes / ROW_BYTES, 0, FORMAT_FLOAT, 4, 0};
    return cuMipmappedArrayCreate((handle_t *)result, &shape, 1);
}

static void destroy_array(uint64_t array) { CHECK(cuArrayDestroy((handle_t)array) == 0); }
static void destroy_mipmap(uint64_t mipmap) { CHECK(cuMipmappedArrayDestroy((handle_t)mipmap) == 0); }

void check_array_v1(void)
{
    handle_t array = (handle_t)SENTINEL;
    check_allocation(array_v1, destroy_array, 0);
    CHECK(cuArrayCreate(&array, NULL) != 0 && array == (handle_t)SENTINEL && charged() == 0);
}

void check_array_v2(void)
{
    struct array_shape_2d line = {131072, 0, FORMAT_FLOAT, 4}, bad = {8, 8, 0x7e, 1};
    uint64_t array = SENTINEL;
    check_allocation(array_v2, destroy_array, 0);
    /* One dimension: the driver does not say, the estimate is exact. */
    CHECK(cuArrayCreate_v2((handle_t *)&array, &line) == 0 && charged() == 2 * MIB);
    destroy_array(array);
    CHECK(cuArrayCreate_v2(NULL, &line) != 0 && charged() == 0);
    CHECK(cuArrayCreate_v2((handle_t *)&array, &bad) != 0 && charged() == 0);
}

void check_array_3d_v1(void) { check_allocation(array_3d_v1, destroy_array, 0); }

void check_array_3d_v2(void)
{
    struct array_shape odd = {1025, 1025, 0, FORMAT_UINT8, 1, 0};
    struct array_shape line = {16384, 0, 1024, FORMAT_FLOAT, 4, ARRAY_LAYERED};
    uint64_t array = 0;
    check_allocation(array_3d_v2, destroy_array, 0);
    /* 17 columns of 64 bytes, 9 blocks of 128 rows: what is held, and not what is asked for. */
    CHECK(cuArray3DCreate_v2((handle_t *)&array, &odd) == 0 && charged() == 2 * MIB);
    destroy_array(array);
    CHECK(cuArray3DCreate_v2((handle_t *)&array, &line) == 0 && charged() == 256 * MIB);
    destroy_array(array);
    CHECK(charged() == 0);
}

void check_mipmap_create(void)
{
    struct array_shape shape = {2048, 2048, 0, FORMAT_FLOAT, 4, 0};
    uint64_t mipmap = 0;
    check_allocation(mipmap_of_one, destroy_mipmap, 0);
    CHECK(cuMipmappedArrayCreate((handle_t *)&mipmap, &shape, 12) == 0);
    CHECK(charged() >= 64 * MIB * 4 / 3 && charged() <= 64 * MIB * 4 / 3 + 2 * MIB);
    destroy_mipmap(mipmap);
    CHECK(charged() == 0);
}

void check_array_destroy(void)
{
    uint64_t array = 0;
    CHECK(array_v2(&array, 64 * MIB) == 0 && charged() == 64 * MIB);
    CHECK(cuArrayDestroy((handle_t)&array) != 0 && charged() == 64 * MIB);
    CHECK(cuArrayDestroy((handle_t)array) == 0 && charged() == 0);
    CHECK(cuArrayDestroy((handle_t)array) != 0 && charged() == 0);
}

void check_mipmap_destroy(void)
{
    uint64_t mipmap = 0;
    handle_t level = NULL;
    CHECK(mipmap_of_one(&mipmap, 64 * MIB) == 0 && charged() == 64 * MIB);
    CHECK(cuMipmappedArrayGetLevel(&level, (handle_t)mipmap, 0) == 0 && charged() == 64 * MIB);
    /* A level belongs to its mipmap. */
    CHECK(cuArrayDestroy(level) != 0 && charged() == 64 * MIB);
    CHECK(cuMipmappedArrayDestroy((handle_t)mipmap) == 0 && charged() == 0);
    CHECK(cuMipmappedArrayDestroy((handle_t)mipmap) != 0 && charged() == 0);
}

typedef int map_tiles_t(void *, unsigned, handle_t);

static struct array_map tile(handle_t array, unsigned x, unsigned y, uint64_t memory, uint64_t offset)
{
    return (struct array_map){.resource = array, .at.part = {.x = 256 * x, .y = 256 * y, .width = 256, .height = 256,
                              .depth = 1}, .operation = memory == 0 ? MAP_OFF : MAP_ON, .memory = memory,
                              .offset = offset, .device_mask = 1};
}

static void check_sparse_array(map_tiles_t *map_tiles)
{
    struct array_shape shape = {1024, 1024, 0, FORMAT_UINT8, 1, ARRAY_SPARSE};
    uint64_t memory = 0, other = 0;
    handle_t array = NULL;
    CHECK(cuArray3DCreate_v2(&array, &shape) == 0 && charged() == 0);
    CHECK(create_tile_pool(&memory, 64 * MIB) == 0 && create_tile_pool(&other, 2 * MIB) == 0);
    struct array_map two[] = {tile(array, 0, 0, memory, 0), tile(array, 3, 3, memory, TILE)};
    struct array_map bad[] = {tile(array, 1, 1, memory, 0), tile(array, 4, 0, memory, 0)};
    CHECK(map_tiles(two, 2, NULL) == 0 && map_tiles(bad, 2, NULL) != 0);
    CHECK(cuMemRelease(memory) == 0 && charged() == 66 * MIB);
    /* One tile goes to other memory, and with the second nothing holds the first memory any more. */
    struct array_map again = tile(array, 0, 0, other, 0), none = tile(array, 3, 3, 0, 0);
    CHECK(map_tiles(&again, 1, NULL) == 0 && charged() == 66 * MIB);
    CHECK(map_tiles(&none, 1, NULL) == 0 && charged() == 2 * MIB);
    CHECK(cuMemRelease(other) == 0 && charged() == 2 * MIB);
    CHECK(cuArrayDestroy(array) == 0 && charged() == 0);
}

/* All of a region that was mapped in parts, and a part of one that was mapped at once. */
static void check_regions(map_tiles_t *map_tiles)
{
    struct array_shape shape = {1024, 1024, 0, FORMAT_UINT8, 1, ARRAY_SPARSE};
    uint64_t memory = 0;
    handle_t array = NULL;
    CHECK(cuArray3DCreate_v2(&array, &shape) == 0 && create_tile_pool(&memory, 2 * MIB) == 0);
    struct array_map all = tile(array, 0, 0, memory, 0), part = tile(array, 1, 2, 0, 0);
    all.at.part.width = all.at.part.height = 1024;
    CHECK(map_tiles(&all, 1, NULL) == 0 && cuMemRelease(memory) == 0 && charged() == 2 * MIB);
    CHECK(map_tiles(&part, 1, NULL) == 0 && charged() == 2 * MIB);
    all.operation = MAP_OFF;
    all.memory = 0;
    CHECK(map_tiles(&all, 1, NULL) == 0 && charged() == 0);
    CHECK(cuArrayDestroy(array) == 0);
}

static void check_sparse_mipmap(map_tiles_t *map_tiles)
{
    struct array_shape shape = {1024, 1024, 0, FORMAT_UINT8, 1, ARRAY_SPARSE};
    uint64_t memory = 0;
    handle_t mipmap = NULL;
    CHECK(cuMipmappedArrayCreate(&mipmap, &shape, 11) == 0 && create_tile_pool(&memory, 2 * MIB) == 0);
    struct array_map level = tile(mipmap, 1, 1, memory, 0);
    struct array_map tail = {.resource = mipmap, .resource_type = MAP_MIPMAP, .subresource_type = MAP_TAIL,
                             .at.tail = {.bytes = TILE}, .operation = MAP_ON, .memory = memory, .device_mask = 1};
    level.resource_type = MAP_MIPMAP;
    level.at.part.level = 1;
    CHECK(map_tiles(&level, 1, NULL) == 0 && map_tiles(&tail, 1, NULL) == 0);
    CHECK(cuMemRelease(memory) == 0 && charged() == 2 * MIB);
    level.operation = tail.operation = MAP_OFF;
    level.memory = tail.memory = 0;
    CHECK(map_tiles(&level, 1, NULL) == 0 && charged() == 2 * MIB);
    CHECK(map_tiles(&tail, 1, NULL) == 0 && charged() == 0);
    CHECK(cuMipmappedArrayDestroy(mipmap) == 0);
}

static void check_deferred(map_tiles_t *map_tiles)
{
    struct array_shape shape = {WIDTH, 128, 0, FORMAT_FLOAT, 4, ARRAY_DEFERRED};
    uint64_t memory = 0;
    handle_t array = NULL;
    CHECK(cuArray3DCreate_v2(&array, &shape) == 0 && charged() == 0);
    CHECK(create_tile_pool(&memory, 2 * MIB) == 0);
    struct array_map whole = tile(array, 0, 0, memory, 0);
    CHECK(map_tiles(&whole, 1, NULL) == 0 && cuMemRelease(memory) == 0 && charged() == 2 * MIB);
    CHECK(cuArrayDestroy(array) == 0 && charged() == 0);
}

static void check_tiles(map_tiles_t *map_tiles)
{
    check_sparse_array(map_tiles);
    check_regions(map_tiles);
    check_sparse_mipmap(map_tiles);
    check_deferred(map_tiles);
    CHECK(map_tiles(NULL, 1, NULL) != 0 && charged() == 0 && shown_free() == limit);
}

void check_tiles_legacy(void) { check_tiles(cuMemMapArrayAsync); }
void check_tiles_ptsz(void) { check_tiles(cuMemMapArrayAsync_ptsz); }

/* Sparse arrays: place P has one of two tiles; what is mapped there lives by the tile alone, its handle is released. */
#include "arrays_api.h"
#include "replay.h"

enum { TILES = 2 };

static struct {
    handle_t array;
    bool mapped[TILES];
} sparse[PLACES];

static int map_tile(int at, int tile, uint64_t memory)
{
    struct array_map map = {.resource = sparse[at].array, .at.part = {.x = 256 * (unsigned)tile, .width = 256,
                            .height = 256, .depth = 1}, .operation = memory == 0 ? MAP_OFF : MAP_ON,
                            .memory = memory, .device_mask = 1};
    return at % 2 == 0 ? cuMemMapArrayAsync(&map, 1, NULL) : cuMemMapArrayAsync_ptsz(&map, 1, NULL);
}

/* New memory takes the place of what was mapped there. */
int do_tile_map(const struct operation *operation)
{
    struct array_shape shape = {512, 256, 0, FORMAT_UINT8, 1, ARRAY_SPARSE};
    int at = operation->place % PLACES, tile = operation->extra % TILES;
    uint64_t memory;
    if (sparse[at].array == NULL)
        CHECK(cuArray3DCreate_v2(&sparse[at].array, &shape) == 0);
    int code = create_tile_pool(&memory, size_of(operation->size));
    if (code != 0)
        return code;
    CHECK(map_tile(at, tile, memory) == 0 && cuMemRelease(memory) == 0);
    sparse[at].mapped[tile] = true;
    return 0;
}

int do_tile_unmap(const struct operation *operation)
{
    int at = operation->place % PLACES, tile = operation->extra % TILES;
    if (!sparse[at].mapped[tile])
        return NOTHING_DONE;
    sparse[at].mapped[tile] = false;
    return map_tile(at, tile, 0);
}

/* What is mapped goes with the array. */
void end_tiles(void)
{
    for (int place = 0; place < PLACES; place++) {
        if (sparse[place].array != NULL)
            CHECK(cuArrayDestroy(sparse[place].array) == 0);
        sparse[place].array = NULL;
        for (int tile = 0; tile < TILES; tile++)
            sparse[place].mapped[tile] = false;
    }
}

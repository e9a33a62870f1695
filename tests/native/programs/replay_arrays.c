/* CUDA arrays and mipmapped arrays of odd shapes: place P has one of either. */
#include "arrays_api.h"
#include "replay.h"

static handle_t arrays[PLACES], mipmaps[PLACES];

/* Some 16 bytes by `width` in rows; `extra` says how wide, and whether there are layers. */
static bool shape_of(const struct operation *operation, struct array_shape *shape)
{
    size_t bytes = size_of(operation->size), width = (size_t)(operation->extra % 64) * 32 + 1;
    if (bytes == 0 || bytes > 300 * MIB)
        return false;
    *shape = (struct array_shape){width, bytes / (16 * width) + 1, 0, FORMAT_FLOAT, 4, 0};
    if (operation->extra >= 128) {
        shape->depth = operation->extra % 7 + 1;
        shape->height = shape->height / shape->depth + 1;
        shape->flags = ARRAY_LAYERED;
    }
    return true;
}

int do_array(const struct operation *operation)
{
    struct array_shape shape;
    int at = operation->place % PLACES;
    if (arrays[at] != NULL || !shape_of(operation, &shape))
        return NOTHING_DONE;
    return cuArray3DCreate_v2(&arrays[at], &shape);
}

int do_array_destroy(const struct operation *operation)
{
    int at = operation->place % PLACES;
    if (arrays[at] == NULL)
        return NOTHING_DONE;
    int code = cuArrayDestroy(arrays[at]);
    arrays[at] = NULL;
    return code;
}

int do_mipmap(const struct operation *operation)
{
    struct array_shape shape;
    int at = operation->place % PLACES;
    if (mipmaps[at] != NULL || !shape_of(operation, &shape))
        return NOTHING_DONE;
    return cuMipmappedArrayCreate(&mipmaps[at], &shape, operation->extra % 5 + 1);
}

int do_mipmap_destroy(const struct operation *operation)
{
    int at = operation->place % PLACES;
    if (mipmaps[at] == NULL)
        return NOTHING_DONE;
    int code = cuMipmappedArrayDestroy(mipmaps[at]);
    mipmaps[at] = NULL;
    return code;
}

void end_arrays(void)
{
    for (int place = 0; place < PLACES; place++) {
        if (arrays[place] != NULL)
            CHECK(cuArrayDestroy(arrays[place]) == 0);
        if (mipmaps[place] != NULL)
            CHECK(cuMipmappedArrayDestroy(mipmaps[place]) == 0);
        arrays[place] = mipmaps[place] = NULL;
    }
}

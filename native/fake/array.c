/* array.c: CUDA arrays: create, describe, destroy. */
#include "array.h"

#include <stdlib.h>

static CUarray arrays;

bool array_known(CUarray array)
{
    CUarray known = arrays;
    while (known != NULL && known != array) {
        known = known->next;
    }
    return known != NULL;
}

CUarray array_handle(struct image *image, unsigned level, int plane, bool whole)
{
    CUarray array = calloc(1, sizeof *array);
    if (array != NULL) {
        *array = (struct fake_array){ .next = arrays, .image = image, .level = level, .plane = plane, .whole = whole };
        arrays = array;
    }
    return array;
}

void array_forget(CUarray array)
{
    for (int plane = 0; plane < PLANES_MAX; plane++) {
        if (array->planes[plane] != NULL) {
            array_forget(array->planes[plane]);
        }
    }
    CUarray *link = &arrays;
    while (*link != array) {
        link = &(*link)->next;
    }
    *link = array->next;
    free(array);
}

static CUresult create(CUarray *out, const CUarray3dDescriptor *descriptor)
{
    struct image *image;
    NOT_NULL(out);
    TRY(image_create(&image, descriptor, 1));
    CUarray array = array_handle(image, 0, -1, true);
    if (array == NULL) {
        image_destroy(image);
        return CUDA_ERROR_OUT_OF_MEMORY;
    }
    *out = array;
    return CUDA_SUCCESS;
}

static CUresult create_3d32(CUarray *out, const CUarray3dDescriptor32 *d)
{
    NOT_NULL(d);
    return create(out, &(CUarray3dDescriptor){ d->width, d->height, d->depth, d->format, d->channels, d->flags });
}

static CUresult create_2d(CUarray *out, const CUarrayDescriptor *d)
{
    NOT_NULL(d);
    return create(out, &(CUarray3dDescriptor){ d->width, d->height, 0, d->format, d->channels, 0 });
}

static CUresult create_2d32(CUarray *out, const CUarrayDescriptor32 *d)
{
    NOT_NULL(d);
    return create(out, &(CUarray3dDescriptor){ d->width, d->height, 0, d->format, d->channels, 0 });
}

static CUresult destroy(CUarray array)
{
    CUcontext context;
    TRY(context_current(&context));
    /* A level or a plane goes with the whole that it was got from. */
    REQUIRE(array_known(array) && array->whole, CUDA_ERROR_INVALID_HANDLE);
    struct image *image = array->image;
    array_forget(array);
    image_destroy(image);
    return CUDA_SUCCESS;
}

void arrays_release_context(CUcontext context)
{
    mipmaps_release_context(context);
    for (CUarray array = arrays, next; array != NULL; array = next) {
        next = array->next;
        if (array->whole && array->image->context == context) {
            struct image *image = array->image;
            array_forget(array);
            image_destroy(image);
            next = arrays;                /* planes went along */
        }
    }
}

static CUresult describe(CUarray3dDescriptor *out, CUarray array)
{
    NOT_NULL(out);
    REQUIRE(array_known(array), CUDA_ERROR_INVALID_HANDLE);
    const struct shape *shape = &array->image->shape;
    struct extent e = shape_level(shape, array->level);
    *out = shape->descriptor;
    out->width = e.width;
    out->height = shape->dimensions > 1 ? e.height : 0;
    out->depth = shape->dimensions > 2 ? e.depth : shape->descriptor.depth;
    if (array->plane >= 0) {
        const struct plane *plane = &shape->planes[array->plane];
        out->width = (out->width + plane->x_shift) >> plane->x_shift;
        out->height = (out->height + plane->y_shift) >> plane->y_shift;
        out->format = plane->format;
        out->channels = plane->channels;
    }
    return CUDA_SUCCESS;
}

static CUresult describe_3d32(CUarray3dDescriptor32 *out, CUarray array)
{
    CUarray3dDescriptor d;
    NOT_NULL(out);
    TRY(describe(&d, array));
    *out = (CUarray3dDescriptor32){ (unsigned)d.width, (unsigned)d.height, (unsigned)d.depth, d.format, d.channels,
                                    d.flags };
    return CUDA_SUCCESS;
}

static CUresult describe_2d(CUarrayDescriptor *out, CUarray array)
{
    CUarray3dDescriptor d;
    NOT_NULL(out);
    TRY(describe(&d, array));
    *out = (CUarrayDescriptor){ d.width, d.height, d.format, d.channels };
    return CUDA_SUCCESS;
}

static CUresult describe_2d32(CUarrayDescriptor32 *out, CUarray array)
{
    CUarray3dDescriptor d;
    NOT_NULL(out);
    TRY(describe(&d, array));
    *out = (CUarrayDescriptor32){ (unsigned)d.width, (unsigned)d.height, d.format, d.channels };
    return CUDA_SUCCESS;
}

static CUresult get_plane(CUarray *out, CUarray array, unsigned index)
{
    NOT_NULL(out);
    REQUIRE(array_known(array), CUDA_ERROR_INVALID_HANDLE);
    int count = array->image->shape.plane_count;
    REQUIRE(array->plane < 0 && count > 1 && index < (unsigned)count, CUDA_ERROR_INVALID_VALUE);
    if (array->planes[index] == NULL) {
        array->planes[index] = array_handle(array->image, array->level, (int)index, false);
    }
    REQUIRE(array->planes[index] != NULL, CUDA_ERROR_OUT_OF_MEMORY);
    *out = array->planes[index];
    return CUDA_SUCCESS;
}

CUAPI CUresult cuArrayCreate(CUarray *out, const CUarrayDescriptor32 *d) { DRIVER_CALL(create_2d32(out, d)); }
CUAPI CUresult cuArrayCreate_v2(CUarray *out, const CUarrayDescriptor *d) { DRIVER_CALL(create_2d(out, d)); }
CUAPI CUresult cuArray3DCreate(CUarray *out, const CUarray3dDescriptor32 *d) { DRIVER_CALL(create_3d32(out, d)); }
CUAPI CUresult cuArray3DCreate_v2(CUarray *out, const CUarray3dDescriptor *d) { DRIVER_CALL(create(out, d)); }
CUAPI CUresult cuArrayDestroy(CUarray array) { DRIVER_CALL(destroy(array)); }
CUAPI CUresult cuArrayGetDescriptor(CUarrayDescriptor32 *d, CUarray a) { DRIVER_CALL(describe_2d32(d, a)); }
CUAPI CUresult cuArrayGetDescriptor_v2(CUarrayDescriptor *d, CUarray a) { DRIVER_CALL(describe_2d(d, a)); }
CUAPI CUresult cuArray3DGetDescriptor(CUarray3dDescriptor32 *d, CUarray a) { DRIVER_CALL(describe_3d32(d, a)); }
CUAPI CUresult cuArray3DGetDescriptor_v2(CUarray3dDescriptor *d, CUarray a) { DRIVER_CALL(describe(d, a)); }
CUAPI CUresult cuArrayGetPlane(CUarray *out, CUarray array, unsigned index) { DRIVER_CALL(get_plane(out, array, index)); }

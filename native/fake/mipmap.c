/* mipmap.c: mipmapped arrays, and what the driver says arrays of both kinds need. */
#include "array.h"

#include <stdlib.h>

static CUmipmappedArray mipmaps;

bool mipmap_known(CUmipmappedArray mipmap)
{
    CUmipmappedArray known = mipmaps;
    while (known != NULL && known != mipmap) {
        known = known->next;
    }
    return known != NULL;
}

CUresult mipmap_handle(CUmipmappedArray *out, struct image *image)
{
    CUmipmappedArray mipmap = calloc(1, sizeof *mipmap);
    REQUIRE(mipmap != NULL, CUDA_ERROR_OUT_OF_MEMORY);
    mipmap->image = image;
    mipmap->next = mipmaps;
    mipmaps = mipmap;
    *out = mipmap;
    return CUDA_SUCCESS;
}

static CUresult create(CUmipmappedArray *out, const CUarray3dDescriptor *descriptor, unsigned levels)
{
    struct image *image;
    NOT_NULL(out);
    TRY(image_create(&image, descriptor, levels));
    CUresult rc = mipmap_handle(out, image);
    if (rc != CUDA_SUCCESS) {
        image_destroy(image);
    }
    return rc;
}

static void dispose(CUmipmappedArray mipmap)
{
    CUmipmappedArray *link = &mipmaps;
    while (*link != mipmap) {
        link = &(*link)->next;
    }
    *link = mipmap->next;
    for (unsigned level = 0; level < LEVELS_MAX; level++) {
        if (mipmap->levels[level] != NULL) {
            array_forget(mipmap->levels[level]);
        }
    }
    image_destroy(mipmap->image);
    free(mipmap);
}

static CUresult destroy(CUmipmappedArray mipmap)
{
    CUcontext context;
    TRY(context_current(&context));
    REQUIRE(mipmap_known(mipmap), CUDA_ERROR_INVALID_HANDLE);
    dispose(mipmap);
    return CUDA_SUCCESS;
}

void mipmaps_release_context(CUcontext context)
{
    for (CUmipmappedArray mipmap = mipmaps, next; mipmap != NULL; mipmap = next) {
        next = mipmap->next;
        if (mipmap->image->context == context) {
            dispose(mipmap);
        }
    }
}

static CUresult get_level(CUarray *out, CUmipmappedArray mipmap, unsigned level)
{
    NOT_NULL(out);
    REQUIRE(mipmap_known(mipmap), CUDA_ERROR_INVALID_HANDLE);
    REQUIRE(level < mipmap->image->shape.levels, CUDA_ERROR_INVALID_VALUE);
    if (mipmap->levels[level] == NULL) {
        mipmap->levels[level] = array_handle(mipmap->image, level, -1, false);
    }
    REQUIRE(mipmap->levels[level] != NULL, CUDA_ERROR_OUT_OF_MEMORY);
    *out = mipmap->levels[level];
    return CUDA_SUCCESS;
}

typedef struct { size_t size, alignment; unsigned reserved[4]; } CUarrayRequirements;

/* Only of arrays with deferred mapping: for all others the driver refuses to say. */
static CUresult requirements(CUarrayRequirements *out, const struct image *image, CUdevice device)
{
    NOT_NULL(out);
    REQUIRE(device_at(device) != NULL, CUDA_ERROR_INVALID_DEVICE);
    REQUIRE((image->shape.descriptor.flags & ARRAY_DEFERRED) != 0, CUDA_ERROR_INVALID_VALUE);
    *out = (CUarrayRequirements){ .size = image->shape.bytes, .alignment = image->shape.alignment };
    return CUDA_SUCCESS;
}

static CUresult array_requirements(CUarrayRequirements *out, CUarray array, CUdevice device)
{
    REQUIRE(array_known(array) && array->whole, CUDA_ERROR_INVALID_VALUE);
    return requirements(out, array->image, device);
}

static CUresult mipmap_requirements(CUarrayRequirements *out, CUmipmappedArray mipmap, CUdevice device)
{
    REQUIRE(mipmap_known(mipmap), CUDA_ERROR_INVALID_VALUE);
    return requirements(out, mipmap->image, device);
}

typedef struct {
    unsigned width, height, depth, tail_first_level;
    unsigned long long tail_bytes;
    unsigned flags, reserved[4];
} CUsparseProperties;
#define SINGLE_TAIL 1u

static CUresult sparse(CUsparseProperties *out, const struct image *image, bool whole_in_tail)
{
    NOT_NULL(out);
    const struct shape *shape = &image->shape;
    REQUIRE((shape->descriptor.flags & ARRAY_SPARSE) != 0, CUDA_ERROR_INVALID_VALUE);
    *out = (CUsparseProperties){ .width = (unsigned)shape->tile.width, .height = (unsigned)shape->tile.height,
                                 .depth = (unsigned)shape->tile.depth, .tail_bytes = shape->tail_bytes };
    out->tail_first_level = shape->tail_bytes != 0 ? shape->tail_level : 0;
    out->flags = whole_in_tail ? SINGLE_TAIL : 0;
    return CUDA_SUCCESS;
}

/* An array that is smaller than a tile is all tail. */
static CUresult array_sparse(CUsparseProperties *out, CUarray array)
{
    REQUIRE(array_known(array) && array->whole, CUDA_ERROR_INVALID_VALUE);
    const struct shape *shape = &array->image->shape;
    bool tail = (shape->descriptor.flags & ARRAY_SPARSE) != 0 && shape->tail_level == 0;
    TRY(sparse(out, array->image, tail && shape->layers == 1));
    return CUDA_SUCCESS;
}

static CUresult mipmap_sparse(CUsparseProperties *out, CUmipmappedArray mipmap)
{
    REQUIRE(mipmap_known(mipmap), CUDA_ERROR_INVALID_VALUE);
    return sparse(out, mipmap->image, false);
}

CUAPI CUresult cuMipmappedArrayCreate(CUmipmappedArray *out, const CUarray3dDescriptor *descriptor, unsigned levels)
{
    DRIVER_CALL(create(out, descriptor, levels));
}
CUAPI CUresult cuMipmappedArrayDestroy(CUmipmappedArray mipmap) { DRIVER_CALL(destroy(mipmap)); }
CUAPI CUresult cuMipmappedArrayGetLevel(CUarray *out, CUmipmappedArray m, unsigned l) { DRIVER_CALL(get_level(out, m, l)); }
CUAPI CUresult cuArrayGetMemoryRequirements(CUarrayRequirements *out, CUarray array, CUdevice device)
{
    DRIVER_CALL(array_requirements(out, array, device));
}
CUAPI CUresult cuMipmappedArrayGetMemoryRequirements(CUarrayRequirements *out, CUmipmappedArray mipmap, CUdevice device)
{
    DRIVER_CALL(mipmap_requirements(out, mipmap, device));
}
CUAPI CUresult cuArrayGetSparseProperties(CUsparseProperties *out, CUarray array)
{
    DRIVER_CALL(array_sparse(out, array));
}
CUAPI CUresult cuMipmappedArrayGetSparseProperties(CUsparseProperties *out, CUmipmappedArray mipmap)
{
    DRIVER_CALL(mipmap_sparse(out, mipmap));
}

/* texture.c: texture and surface objects: names for arrays and memory, which cost nothing and hold nothing. */
#include "array.h"

#include <stdlib.h>
#include <string.h>

enum { RESOURCE_ARRAY, RESOURCE_MIPMAP, RESOURCE_LINEAR, RESOURCE_PITCHED };

typedef unsigned long long CUobject;
typedef struct {
    int type;
    union {
        CUarray array;
        CUmipmappedArray mipmap;
        struct { CUdeviceptr address; int format; unsigned channels; size_t bytes; } linear;
        struct { CUdeviceptr address; int format; unsigned channels; size_t width, height, pitch; } pitched;
        int reserved[32];
    } resource;
    unsigned flags;
} CUresourceDesc;
_Static_assert(sizeof(CUresourceDesc) == 144, "as in cuda.h");

struct object {
    struct object *next;
    CUobject id;
    bool surface;
    CUresourceDesc resource;
};

static struct object *objects;
static CUobject last_id;

static CUresult check_memory(CUdeviceptr address, int format, unsigned channels)
{
    struct plane planes[PLANES_MAX];
    REQUIRE(range_at(address) != NULL && format_planes(format, channels, planes) == 1, CUDA_ERROR_INVALID_VALUE);
    return CUDA_SUCCESS;
}

static CUresult check_resource(const CUresourceDesc *d)
{
    REQUIRE(d->flags == 0, CUDA_ERROR_INVALID_VALUE);
    switch (d->type) {
    case RESOURCE_ARRAY:
        REQUIRE(array_known(d->resource.array), CUDA_ERROR_INVALID_VALUE);
        return CUDA_SUCCESS;
    case RESOURCE_MIPMAP:
        REQUIRE(mipmap_known(d->resource.mipmap), CUDA_ERROR_INVALID_VALUE);
        return CUDA_SUCCESS;
    case RESOURCE_LINEAR:
        return check_memory(d->resource.linear.address, d->resource.linear.format, d->resource.linear.channels);
    case RESOURCE_PITCHED:
        return check_memory(d->resource.pitched.address, d->resource.pitched.format, d->resource.pitched.channels);
    default:
        return CUDA_ERROR_INVALID_VALUE;
    }
}

static CUresult create(CUobject *out, const CUresourceDesc *resource, bool surface)
{
    CUcontext context;
    NOT_NULL(out);
    NOT_NULL(resource);
    TRY(context_current(&context));
    TRY(check_resource(resource));
    /* A surface is written to: an array that was made for it. */
    REQUIRE(!surface || resource->type == RESOURCE_ARRAY, CUDA_ERROR_INVALID_VALUE);
    REQUIRE(!surface || (resource->resource.array->image->shape.descriptor.flags & ARRAY_SURFACE) != 0,
            CUDA_ERROR_INVALID_VALUE);
    struct object *object = calloc(1, sizeof *object);
    REQUIRE(object != NULL, CUDA_ERROR_OUT_OF_MEMORY);
    *object = (struct object){ .next = objects, .id = ++last_id, .surface = surface, .resource = *resource };
    objects = object;
    *out = object->id;
    return CUDA_SUCCESS;
}

static struct object **find(CUobject id, bool surface)
{
    struct object **link = &objects;
    while (*link != NULL && ((*link)->id != id || (*link)->surface != surface)) {
        link = &(*link)->next;
    }
    return link;
}

static CUresult destroy(CUobject id, bool surface)
{
    struct object **link = find(id, surface);
    struct object *object = *link;
    REQUIRE(object != NULL, CUDA_ERROR_INVALID_VALUE);
    *link = object->next;
    free(object);
    return CUDA_SUCCESS;
}

static CUresult describe(CUresourceDesc *out, CUobject id, bool surface)
{
    NOT_NULL(out);
    const struct object *object = *find(id, surface);
    REQUIRE(object != NULL, CUDA_ERROR_INVALID_VALUE);
    *out = object->resource;
    return CUDA_SUCCESS;
}

static CUresult create_texture(CUobject *out, const CUresourceDesc *resource, const void *texture)
{
    NOT_NULL(texture);
    return create(out, resource, false);
}

CUAPI CUresult cuTexObjectCreate(CUobject *out, const CUresourceDesc *resource, const void *texture, const void *view)
{
    (void)view;
    DRIVER_CALL(create_texture(out, resource, texture));
}
CUAPI CUresult cuTexObjectDestroy(CUobject id) { DRIVER_CALL(destroy(id, false)); }
CUAPI CUresult cuTexObjectGetResourceDesc(CUresourceDesc *out, CUobject id) { DRIVER_CALL(describe(out, id, false)); }
CUAPI CUresult cuSurfObjectCreate(CUobject *out, const CUresourceDesc *r) { DRIVER_CALL(create(out, r, true)); }
CUAPI CUresult cuSurfObjectDestroy(CUobject id) { DRIVER_CALL(destroy(id, true)); }
CUAPI CUresult cuSurfObjectGetResourceDesc(CUresourceDesc *out, CUobject id) { DRIVER_CALL(describe(out, id, true)); }

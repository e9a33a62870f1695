/* image.c: the memory of CUDA arrays and mipmapped arrays. */
#include "array.h"

#include <stdlib.h>

static CUresult take_memory(struct image *image)
{
    size_t bytes = image->shape.bytes;
    if (image->kind == IMAGE_OWNED) {
        image->memory = (struct range){ .size = bytes, .kind = RANGE_DEVICE, .device = image->context->device,
                                        .context = image->context };
        TRY(memory_take(&image->memory));
        image->bytes = image->memory.bytes;
        return CUDA_SUCCESS;
    }
    /* What is written to a mappable image is kept by the image: two that share tiles do not see each other's bytes. */
    bool sparse = (image->shape.descriptor.flags & ARRAY_SPARSE) != 0;
    image->tile_count = sparse ? bytes / ARRAY_PAGE : 1;
    image->tiles = calloc(image->tile_count, sizeof *image->tiles);
    image->bytes = image->tiles != NULL ? backing_map(bytes) : NULL;
    image->mapped_bytes = bytes;
    REQUIRE(image->bytes != NULL, CUDA_ERROR_OUT_OF_MEMORY);
    return CUDA_SUCCESS;
}

/* Without memory so far. */
static CUresult prepare(struct image **out, const CUarray3dDescriptor *descriptor, unsigned levels)
{
    struct shape shape;
    CUcontext context;
    NOT_NULL(descriptor);
    TRY(context_current(&context));
    TRY(shape_make(&shape, descriptor, levels));
    struct image *image = calloc(1, sizeof *image);
    REQUIRE(image != NULL, CUDA_ERROR_OUT_OF_MEMORY);
    *image = (struct image){ .shape = shape, .context = context };
    *out = image;
    return CUDA_SUCCESS;
}

CUresult image_external(struct image **out, const CUarray3dDescriptor *descriptor, unsigned levels)
{
    TRY(prepare(out, descriptor, levels));
    (*out)->kind = IMAGE_EXTERNAL;
    return CUDA_SUCCESS;
}

CUresult image_create(struct image **out, const CUarray3dDescriptor *descriptor, unsigned levels)
{
    struct image *image;
    TRY(prepare(&image, descriptor, levels));
    bool mappable = (descriptor->flags & (ARRAY_SPARSE | ARRAY_DEFERRED)) != 0;
    image->kind = mappable ? IMAGE_MAPPABLE : IMAGE_OWNED;
    CUresult rc = take_memory(image);
    if (rc != CUDA_SUCCESS) {
        free(image->tiles);
        free(image);
        return rc;
    }
    *out = image;
    return CUDA_SUCCESS;
}

void image_destroy(struct image *image)
{
    if (image->kind == IMAGE_OWNED) {
        memory_release(&image->memory);
    } else {
        image_unmap(image);
        if (image->bytes != NULL) {
            backing_unmap(image->bytes, image->mapped_bytes);
        }
    }
    free(image->tiles);
    free(image);
}

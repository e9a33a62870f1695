/*
 * array.h: CUDA arrays and mipmapped arrays, which are two kinds of handle on one kind of memory.
 *
 * An image is the memory. An ordinary one holds device memory from its creation on; a sparse one or one with deferred
 * mapping holds none, but refers to physical memory that is mapped onto it; one that is mapped from external memory
 * belongs to the exporter.
 */
#ifndef FAKE_ARRAY_H
#define FAKE_ARRAY_H

#include "array_shape.h"

enum image_kind { IMAGE_OWNED, IMAGE_MAPPABLE, IMAGE_EXTERNAL };

struct image {
    struct shape shape;
    enum image_kind kind;
    CUcontext context;
    struct range memory;                  /* of an owned image; not in the table of ranges: it has no address */
    uint8_t *bytes;
    size_t mapped_bytes;                  /* of `bytes`, unless they belong to `memory` */
    struct physical **tiles;              /* of a mappable image: what is mapped where */
    size_t tile_count;
};

struct fake_array {
    CUarray next;
    struct image *image;
    unsigned level;
    int plane;                            /* -1: all of them */
    bool whole;                           /* of cuArrayCreate; others belong to the handle that they were got from */
    CUarray planes[PLANES_MAX];           /* handed out by cuArrayGetPlane */
};

struct fake_mipmap {
    CUmipmappedArray next;
    struct image *image;
    CUarray levels[LEVELS_MAX];           /* handed out by cuMipmappedArrayGetLevel */
};

bool array_known(CUarray array);
bool mipmap_known(CUmipmappedArray mipmap);
/* A handle on a part of an image; NULL without memory for it. */
CUarray array_handle(struct image *image, unsigned level, int plane, bool whole);
void array_forget(CUarray array);

/* image.c */
CUresult image_create(struct image **image, const CUarray3dDescriptor *descriptor, unsigned levels);
/* One whose bytes the caller maps: `bytes` and `mapped_bytes` are its to fill. */
CUresult image_external(struct image **image, const CUarray3dDescriptor *descriptor, unsigned levels);
void image_destroy(struct image *image);
/* array_map.c: let go of everything that is mapped onto the image. */
void image_unmap(struct image *image);

/* mipmap.c */
CUresult mipmap_handle(CUmipmappedArray *out, struct image *image);
void mipmaps_release_context(CUcontext context);

/* array_copy.c: a layer of an array as memory that a copy can go through: rows at `start`, slices one after another. */
struct array_bytes { uint8_t *start; struct rows rows; size_t slice_stride, slices; };
CUresult array_bytes(struct array_bytes *out, CUarray array);

#endif /* FAKE_ARRAY_H */

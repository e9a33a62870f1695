/*
 * array_shape.h: how large a CUDA array is, and where in it what lies.
 *
 * Arrays of one dimension are rows of ROW_ALIGNMENT. All others are made of blocks, as NVIDIA's texture units want them:
 * 64 bytes wide, up to 128 rows high, in three dimensions up to 16 layers deep, and never larger than the image needs.
 * All of a layer's mip levels follow one another; the whole is a multiple of ARRAY_PAGE. Inside the model's bytes rows
 * lie one after the other: nobody can see the order of a real array's bytes.
 */
#ifndef FAKE_ARRAY_SHAPE_H
#define FAKE_ARRAY_SHAPE_H

#include "driver.h"

#define ARRAY_PAGE ((size_t)65536)        /* also a tile of a sparse array */
#define ROW_ALIGNMENT ((size_t)512)
#define LEVELS_MAX 18
#define PLANES_MAX 3

enum { ARRAY_LAYERED = 0x01, ARRAY_SURFACE = 0x02, ARRAY_CUBEMAP = 0x04, ARRAY_GATHER = 0x08, ARRAY_DEPTH = 0x10,
       ARRAY_COLOR = 0x20, ARRAY_SPARSE = 0x40, ARRAY_DEFERRED = 0x80, ARRAY_VIDEO = 0x100 };

/* CUDA_ARRAY3D_DESCRIPTOR, CUDA_ARRAY_DESCRIPTOR, and both before CUDA 3.2. */
typedef struct { size_t width, height, depth; int format; unsigned channels, flags; } CUarray3dDescriptor;
typedef struct { size_t width, height; int format; unsigned channels; } CUarrayDescriptor;
typedef struct { unsigned width, height, depth; int format; unsigned channels, flags; } CUarray3dDescriptor32;
typedef struct { unsigned width, height; int format; unsigned channels; } CUarrayDescriptor32;

/* One plane of a format; most formats have one. */
struct plane {
    unsigned bytes;                       /* of an element, or of a block of `block` x `block` elements */
    unsigned block;
    unsigned x_shift, y_shift;            /* subsampled by these powers of two */
    int format;                           /* what cuArrayGetPlane says it is */
    unsigned channels;
};
/* The planes of a format; returns how many there are, 0 for a format or number of channels that does not exist. */
int format_planes(int format, unsigned channels, struct plane planes[PLANES_MAX]);

struct extent { size_t width, height, depth; };

struct shape {
    CUarray3dDescriptor descriptor;
    unsigned levels;
    unsigned dimensions;
    size_t layers;                        /* 1 unless layered or a cubemap */
    int plane_count;
    struct plane planes[PLANES_MAX];
    /* Sparse arrays */
    struct extent tile;                   /* in elements */
    unsigned tail_level;                  /* from here on levels share the mip tail; `levels` if there is none */
    size_t tail_bytes;                    /* per layer */
    size_t layer_bytes;
    size_t bytes;                         /* of everything, a multiple of `alignment` */
    size_t alignment;
};

/* CUDA_ERROR_INVALID_VALUE for what can not exist. The number of levels is cut to what the extents allow. */
CUresult shape_make(struct shape *shape, const CUarray3dDescriptor *descriptor, unsigned levels);
/* In elements of plane 0. */
struct extent shape_level(const struct shape *shape, unsigned level);
/* A plane of a level, as rows of blocks: bytes of a row, rows, slices. */
struct rows { size_t bytes, count, slices; };
struct rows shape_rows(const struct shape *shape, unsigned level, int plane);
/* Where a plane of a level begins, in its layer. */
size_t shape_offset(const struct shape *shape, unsigned level, int plane);
/* Tiles of a level of one layer, in each dimension. */
struct extent shape_tiles(const struct shape *shape, unsigned level);

#endif /* FAKE_ARRAY_SHAPE_H */

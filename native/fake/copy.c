/* copy.c: memory copies, in every spelling; the bytes really move. */
#define _GNU_SOURCE
#include "access.h"
#include "array.h"
#include "capture.h"

#include <string.h>

static CUresult need_context(void)
{
    CUcontext context;
    return context_current(&context);
}

static void move(CUdeviceptr to, CUdeviceptr from, size_t size)
{
    while (size > 0) {
        size_t writable, readable;
        uint8_t *target = access_piece(to, size, &writable);
        const uint8_t *source = access_piece(from, writable, &readable);
        memmove(target, source, readable);
        to += readable;
        from += readable;
        size -= readable;
    }
}

static CUresult copy(CUdeviceptr to, enum access_side to_side, CUdeviceptr from, enum access_side from_side,
                     size_t size)
{
    TRY(need_context());
    TRY(access_check(to, size, to_side, true));
    TRY(access_check(from, size, from_side, false));
    move(to, from, size);
    return CUDA_SUCCESS;
}

#define ADDRESS(pointer) ((CUdeviceptr)(uintptr_t)(pointer))

STREAM_API(cuMemcpy, _ptds, (CUdeviceptr to, CUdeviceptr from, size_t size), (to, from, size))
{
    return copy(to, SIDE_ANY, from, SIDE_ANY, size);
}

STREAM_API(cuMemcpyHtoD_v2, _ptds, (CUdeviceptr to, const void *from, size_t size), (to, from, size))
{
    return copy(to, SIDE_DEVICE, ADDRESS(from), SIDE_HOST, size);
}

STREAM_API(cuMemcpyDtoH_v2, _ptds, (void *to, CUdeviceptr from, size_t size), (to, from, size))
{
    return copy(ADDRESS(to), SIDE_HOST, from, SIDE_DEVICE, size);
}

STREAM_API(cuMemcpyDtoD_v2, _ptds, (CUdeviceptr to, CUdeviceptr from, size_t size), (to, from, size))
{
    return copy(to, SIDE_DEVICE, from, SIDE_DEVICE, size);
}

/* One side of a copy in the terms of a node. */
static int memory_type(enum access_side side)
{
    return side == SIDE_HOST ? CU_MEMORYTYPE_HOST : side == SIDE_DEVICE ? CU_MEMORYTYPE_DEVICE : CU_MEMORYTYPE_UNIFIED;
}

static CUresult copy_on(CUstream stream, CUdeviceptr to, enum access_side to_side, CUdeviceptr from,
                        enum access_side from_side, size_t size)
{
    int device;
    bool captured;
    TRY(stream_device(stream, &device));
    struct work work = { .type = NODE_COPY,
                         .copy = { .src_type = memory_type(from_side), .src_host = (const void *)(uintptr_t)from,
                                   .src_device = from, .dst_type = memory_type(to_side),
                                   .dst_host = (void *)(uintptr_t)to, .dst_device = to, .width = size, .height = 1,
                                   .depth = 1 } };
    TRY(capture_work(stream, &work, &captured));
    return captured ? CUDA_SUCCESS : copy(to, to_side, from, from_side, size);
}

STREAM_API(cuMemcpyAsync, _ptsz, (CUdeviceptr to, CUdeviceptr from, size_t size, CUstream stream),
           (to, from, size, stream))
{
    return copy_on(stream, to, SIDE_ANY, from, SIDE_ANY, size);
}

STREAM_API(cuMemcpyHtoDAsync_v2, _ptsz, (CUdeviceptr to, const void *from, size_t size, CUstream stream),
           (to, from, size, stream))
{
    return copy_on(stream, to, SIDE_DEVICE, ADDRESS(from), SIDE_HOST, size);
}

STREAM_API(cuMemcpyDtoHAsync_v2, _ptsz, (void *to, CUdeviceptr from, size_t size, CUstream stream),
           (to, from, size, stream))
{
    return copy_on(stream, ADDRESS(to), SIDE_HOST, from, SIDE_DEVICE, size);
}

STREAM_API(cuMemcpyDtoDAsync_v2, _ptsz, (CUdeviceptr to, CUdeviceptr from, size_t size, CUstream stream),
           (to, from, size, stream))
{
    return copy_on(stream, to, SIDE_DEVICE, from, SIDE_DEVICE, size);
}

/* The ABI before CUDA 3.2. */
CUAPI CUresult cuMemcpyHtoD(CUdeviceptr32 to, const void *from, unsigned size)
{
    DRIVER_CALL(copy(to, SIDE_DEVICE, ADDRESS(from), SIDE_HOST, size));
}
CUAPI CUresult cuMemcpyDtoH(void *to, CUdeviceptr32 from, unsigned size)
{
    DRIVER_CALL(copy(ADDRESS(to), SIDE_HOST, from, SIDE_DEVICE, size));
}
CUAPI CUresult cuMemcpyDtoD(CUdeviceptr32 to, CUdeviceptr32 from, unsigned size)
{
    DRIVER_CALL(copy(to, SIDE_DEVICE, from, SIDE_DEVICE, size));
}

/* One side of a 2D or 3D copy, in the terms of a plain address. */
struct box {
    CUdeviceptr base;
    enum access_side side;
    size_t x, y, z, pitch, rows;
    size_t slice;                         /* from one slice to the next; 0: pitch x rows */
};

/* An array brings its own rows; what it has not can not be copied. */
static CUresult make_array_box(struct box *box, CUarray array, size_t width, size_t height, size_t depth)
{
    struct array_bytes bytes;
    TRY(array_bytes(&bytes, array));
    REQUIRE(box->x <= bytes.rows.bytes && width <= bytes.rows.bytes - box->x, CUDA_ERROR_INVALID_VALUE);
    REQUIRE(box->y <= bytes.rows.count && height <= bytes.rows.count - box->y, CUDA_ERROR_INVALID_VALUE);
    REQUIRE(box->z <= bytes.slices && depth <= bytes.slices - box->z, CUDA_ERROR_INVALID_VALUE);
    box->base = ADDRESS(bytes.start);
    box->side = SIDE_ANY;
    box->pitch = bytes.rows.bytes;
    box->rows = bytes.rows.count;
    box->slice = bytes.slice_stride;
    return CUDA_SUCCESS;
}

static CUresult make_box(struct box *box, int type, const void *host, CUdeviceptr device)
{
    REQUIRE(type == CU_MEMORYTYPE_HOST || type == CU_MEMORYTYPE_DEVICE || type == CU_MEMORYTYPE_UNIFIED,
            CUDA_ERROR_INVALID_VALUE);
    box->base = type == CU_MEMORYTYPE_HOST ? ADDRESS(host) : device;
    box->side = type == CU_MEMORYTYPE_HOST ? SIDE_HOST : type == CU_MEMORYTYPE_DEVICE ? SIDE_DEVICE : SIDE_ANY;
    return CUDA_SUCCESS;
}

static CUdeviceptr row_of(const struct box *box, size_t row, size_t layer)
{
    size_t slice = box->slice != 0 ? box->slice : box->rows * box->pitch;
    return box->base + (box->z + layer) * slice + (box->y + row) * box->pitch + box->x;
}

static CUresult copy_box(struct box *to, struct box *from, size_t width, size_t height, size_t depth)
{
    TRY(need_context());
    to->pitch = to->pitch != 0 ? to->pitch : width + to->x;
    from->pitch = from->pitch != 0 ? from->pitch : width + from->x;
    to->rows = to->rows != 0 ? to->rows : height + to->y;
    from->rows = from->rows != 0 ? from->rows : height + from->y;
    REQUIRE(to->pitch >= width + to->x && from->pitch >= width + from->x, CUDA_ERROR_INVALID_VALUE);
    for (int pass = 0; pass < 2; pass++) {
        for (size_t i = 0; width > 0 && i < height * depth; i++) {
            CUdeviceptr target = row_of(to, i % height, i / height), source = row_of(from, i % height, i / height);
            if (pass == 0) {
                TRY(access_check(target, width, to->side, true));
                TRY(access_check(source, width, from->side, false));
            } else {
                move(target, source, width);
            }
        }
    }
    return CUDA_SUCCESS;
}

static CUresult copy_2d(const CUmemcpy2D *c)
{
    NOT_NULL(c);
    struct box to = { .x = c->dst_x, .y = c->dst_y, .pitch = c->dst_pitch };
    struct box from = { .x = c->src_x, .y = c->src_y, .pitch = c->src_pitch };
    TRY(c->dst_type == CU_MEMORYTYPE_ARRAY ? make_array_box(&to, c->dst_array, c->width, c->height, 1)
                                           : make_box(&to, c->dst_type, c->dst_host, c->dst_device));
    TRY(c->src_type == CU_MEMORYTYPE_ARRAY ? make_array_box(&from, c->src_array, c->width, c->height, 1)
                                           : make_box(&from, c->src_type, c->src_host, c->src_device));
    return copy_box(&to, &from, c->width, c->height, 1);
}

static CUresult copy_3d(const CUmemcpy3D *c)
{
    NOT_NULL(c);
    struct box to = { .x = c->dst_x, .y = c->dst_y, .z = c->dst_z, .pitch = c->dst_pitch, .rows = c->dst_height };
    struct box from = { .x = c->src_x, .y = c->src_y, .z = c->src_z, .pitch = c->src_pitch, .rows = c->src_height };
    TRY(c->dst_type == CU_MEMORYTYPE_ARRAY ? make_array_box(&to, c->dst_array, c->width, c->height, c->depth)
                                           : make_box(&to, c->dst_type, c->dst_host, c->dst_device));
    TRY(c->src_type == CU_MEMORYTYPE_ARRAY ? make_array_box(&from, c->src_array, c->width, c->height, c->depth)
                                           : make_box(&from, c->src_type, c->src_host, c->src_device));
    return copy_box(&to, &from, c->width, c->height, c->depth);
}

CUresult copy_run(const CUmemcpy3D *c)
{
    return copy_3d(c);
}

STREAM_API(cuMemcpy2D_v2, _ptds, (const CUmemcpy2D *c), (c))
{
    return copy_2d(c);
}

STREAM_API(cuMemcpy2DUnaligned_v2, _ptds, (const CUmemcpy2D *c), (c))
{
    return copy_2d(c);
}

STREAM_API(cuMemcpy3D_v2, _ptds, (const CUmemcpy3D *c), (c))
{
    return copy_3d(c);
}

STREAM_API(cuMemcpy2DAsync_v2, _ptsz, (const CUmemcpy2D *c, CUstream stream), (c, stream))
{
    int device;
    bool captured;
    NOT_NULL(c);
    TRY(stream_device(stream, &device));
    struct work work = { .type = NODE_COPY,
                         .copy = { .src_x = c->src_x, .src_y = c->src_y, .src_type = c->src_type,
                                   .src_host = c->src_host, .src_device = c->src_device, .src_pitch = c->src_pitch,
                                   .dst_x = c->dst_x, .dst_y = c->dst_y, .dst_type = c->dst_type,
                                   .dst_host = c->dst_host, .dst_device = c->dst_device, .dst_pitch = c->dst_pitch,
                                   .width = c->width, .height = c->height, .depth = 1 } };
    TRY(capture_work(stream, &work, &captured));
    return captured ? CUDA_SUCCESS : copy_2d(c);
}

STREAM_API(cuMemcpy3DAsync_v2, _ptsz, (const CUmemcpy3D *c, CUstream stream), (c, stream))
{
    int device;
    bool captured;
    NOT_NULL(c);
    TRY(stream_device(stream, &device));
    struct work work = { .type = NODE_COPY, .copy = *c };
    TRY(capture_work(stream, &work, &captured));
    return captured ? CUDA_SUCCESS : copy_3d(c);
}

/* array_copy.c: the bytes of an array, for copies. */
#include "array.h"

CUresult array_bytes(struct array_bytes *out, CUarray array)
{
    REQUIRE(array_known(array), CUDA_ERROR_INVALID_HANDLE);
    const struct shape *shape = &array->image->shape;
    /* A planar array as a whole has no rows of one length: its planes are copied one by one. */
    REQUIRE(array->plane >= 0 || shape->plane_count == 1, CUDA_ERROR_INVALID_VALUE);
    int plane = array->plane >= 0 ? array->plane : 0;
    struct rows rows = shape_rows(shape, array->level, plane);
    bool deep = shape->dimensions == 3;
    *out = (struct array_bytes){ .start = array->image->bytes + shape_offset(shape, array->level, plane), .rows = rows,
                                 .slice_stride = deep ? rows.bytes * rows.count : shape->layer_bytes,
                                 .slices = deep ? rows.slices : shape->layers };
    return CUDA_SUCCESS;
}

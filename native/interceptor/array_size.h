/*
 * array_size.h: how much memory a CUDA array takes, as far as its descriptor tells.
 *
 * The driver tells the size of an array only if the program is going to map memory onto it by itself
 * (CUDA_ARRAY3D_DEFERRED_MAPPING), which arrays.c makes use of. This estimate is for the rest: one-dimensional arrays, and
 * drivers that do not know the question. It is never too low for the layouts that NVIDIA's GPUs have had.
 */
#ifndef FRACGPU_INTERCEPTOR_ARRAY_SIZE_H
#define FRACGPU_INTERCEPTOR_ARRAY_SIZE_H

#include "cuda_types.h"

/* Bytes of an array of `levels` mip levels; as many levels as the extents allow are counted. */
uint64_t fg_array_estimate(const struct fg_array_shape *shape, unsigned int levels);

#endif

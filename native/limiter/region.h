/*
 * region.h: memory that a forked child finds empty.
 *
 * A child must not use its parent's slot, nor believe in its parent's pointers. Everything that belongs to one
 * process therefore lives in regions that the kernel wipes on fork: the child sees zeros, which is what a process
 * that has not started yet looks like. No fork handler is needed and no lock is held over fork.
 */
#ifndef FRACGPU_LIMITER_REGION_H
#define FRACGPU_LIMITER_REGION_H

#include <stddef.h>

/* `bytes` of zeros, wiped on fork, or NULL. */
void *fg_region_wiped(size_t bytes);

/* `bytes` of zeros that a child does not have at all, or NULL. Only what a wiped region points to belongs here. */
void *fg_region_private(size_t bytes);

void fg_region_free(void *region, size_t bytes);

#endif

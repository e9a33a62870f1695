/* replay.h: what an operation of a byte program may touch. Ends of one kind of object lie in one file, replay_<concern>.c. */
#ifndef TESTS_REPLAY_H
#define TESTS_REPLAY_H

#include "driver_api.h"

/* Numbered places for objects of each kind; an operation names one, and does nothing where it makes no sense. */
enum { PLACES = 8, NOTHING_DONE = -1 };

struct operation {
    unsigned char code, place, size, extra;
};

/* The size that a byte stands for: the edges of what drivers round to, and what no GPU has. */
size_t size_of(unsigned char code);

/* An operation: the driver's answer, or NOTHING_DONE. */
typedef int operate_t(const struct operation *);

/* name, function. The Python side reads this list: the order is the code. */
#define OPERATIONS(ONE) \
    ONE(alloc, do_alloc) \
    ONE(alloc_pitch, do_alloc_pitch) \
    ONE(alloc_managed, do_alloc_managed) \
    ONE(alloc_narrow, do_alloc_narrow) \
    ONE(free, do_free) \
    ONE(info, do_info) \
    ONE(create, do_create) \
    ONE(retain, do_retain) \
    ONE(release, do_release) \
    ONE(map, do_map) \
    ONE(unmap, do_unmap) \
    ONE(pool_create, do_pool_create) \
    ONE(pool_destroy, do_pool_destroy) \
    ONE(pool_trim, do_pool_trim) \
    ONE(pool_alloc, do_pool_alloc) \
    ONE(async_alloc, do_async_alloc) \
    ONE(async_free, do_async_free) \
    ONE(synchronize, do_synchronize) \
    ONE(array, do_array) \
    ONE(array_destroy, do_array_destroy) \
    ONE(mipmap, do_mipmap) \
    ONE(mipmap_destroy, do_mipmap_destroy) \
    ONE(tile_map, do_tile_map) \
    ONE(tile_unmap, do_tile_unmap)

#define DECLARE_OPERATION(name, function) operate_t function;
OPERATIONS(DECLARE_OPERATION)
#undef DECLARE_OPERATION

/* Give back everything of that concern. */
void end_plain(void);
void end_physical(void);
void end_pools(void);
void end_arrays(void);
void end_tiles(void);

#endif

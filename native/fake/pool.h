/* pool.h: a pool, for the files that know its parts. */
#ifndef FAKE_POOL_H
#define FAKE_POOL_H

#include "share.h"

struct fake_pool {
    CUmemoryPool next;
    int device;
    bool is_default;
    bool destroyed;                       /* lives on only until its last allocation is freed */
    int handle_types;                     /* by which it can be shared */
    bool imported;                        /* another process's: only its pointers can be had */
    int32_t maker;                        /* that process */
    uint32_t number;                      /* of the pool there */
    size_t max_size;                      /* 0: no limit */
    uint64_t threshold;
    int reuse[3];
    size_t reserved, reserved_high, used, used_high;
    struct segment *segments;
};

/* A pool without memory. */
CUresult pool_create(const struct fake_pool *content, CUmemoryPool *pool);

#endif /* FAKE_POOL_H */

/*
 * pools.h: stream-ordered memory is held by its pool, so a pool is charged by what it has reserved.
 *
 * A pool grows in blocks before an allocation needs them and keeps them after the last free until the program
 * synchronizes. What is charged therefore follows CU_MEMPOOL_ATTR_RESERVED_MEM_CURRENT: growth is reserved before the
 * call that may cause it, and the charge is settled to the attribute after every call that may have changed it.
 */
#ifndef FRACGPU_INTERCEPTOR_POOLS_H
#define FRACGPU_INTERCEPTOR_POOLS_H

#include <stdbool.h>

#include "process.h"

/* Whether a CU_MEM_LOCATION_TYPE means the host's memory. */
bool fg_location_is_host(int type);

/* A pointer of a pool (value->kind is FG_POOL) has been freed. */
void fg_pool_pointer_freed(struct fg_process *process, const struct fg_value *value);

/* Give back to the GPU what this process's pools of `group` hold unused. True when there was a pool to ask. */
bool fg_pools_reclaim(struct fg_process *process, struct fg_group *group);

/* Settle the pools that have something charged, if any. */
void fg_pools_settle(void);

#endif

/*
 * pool_record.h: what is charged for one pool.
 */
#ifndef FRACGPU_INTERCEPTOR_POOL_RECORD_H
#define FRACGPU_INTERCEPTOR_POOL_RECORD_H

#include <stdbool.h>

#include "process.h"

/* The record of a pool, made on first sight with `group` as the place where it lies; NULL for a pool that is not in a
 * GPU's memory, which is never charged. NULL when no record is left. */
struct fg_pool *fg_pool_record(struct fg_process *process, CUmemoryPool pool, struct fg_group *group);

struct fg_pool *fg_pool_find(struct fg_process *process, CUmemoryPool pool);

/* Note that the pool may grow by `growth` until `fg_pool_landed`, and that the charge reserved for it is the pool's from
 * now on. */
void fg_pool_flying(struct fg_pool *record, uint64_t growth, const struct fg_charge *charge);
void fg_pool_landed(struct fg_pool *record, uint64_t growth);

/* Headroom: bytes at the end of the pool's newest block that nothing has touched yet. What is taken from it can not
 * make the pool grow.
 *
 * Every allocation begins by asking for its bytes there; false: it needs a reservation of `growth`. True: `growth` is in
 * flight as if it had been reserved. The ticket says whether the allocation was alone, which is when its growth of the
 * pool can become headroom. */
bool fg_pool_begin(struct fg_pool *record, uint64_t bytes, uint64_t growth, uint64_t *ticket);
/* The allocation is done, and the pool had `before` and has `after` reserved. */
void fg_pool_grew(struct fg_pool *record, uint64_t ticket, uint64_t before, uint64_t after, uint64_t bytes);
void fg_pool_end(struct fg_pool *record);

/* Make the charge equal to what the pool has reserved. Never waits: of several threads that ask at once one does it,
 * for all of them. */
void fg_pool_settle(struct fg_process *process, struct fg_pool *record);

/* Take charge of the pool, for longer than a settlement. Waits for a bounded time; false when in vain. */
bool fg_pool_enter(struct fg_pool *record);
/* Settle it, and let the next one in. */
void fg_pool_leave(struct fg_process *process, struct fg_pool *record);

/* The pool is gone; `remaining` bytes live on until its last pointer is freed, when a settlement forgets the pool. By the
 * thread in charge. */
void fg_pool_gone(struct fg_process *process, struct fg_pool *record, uint64_t remaining);

bool fg_pool_attribute(CUmemoryPool pool, int attribute, uint64_t *value);

#endif

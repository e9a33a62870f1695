/*
 * share_lock.h: who holds which memory that processes of one allocation share.
 *
 * The kernel's table of locks is the register. Locks of an open file may lie far beyond the file's end: there, ranges of
 * offsets stand for what a process has shared, and each lock says that whoever has it is alive, what memory it means
 * (who shared it, and which of his it is) and how much that is. A process that dies takes its locks along, so there is
 * nothing to repair. A lock is kept by a mapping alone, as a slot's is: see slot_lock.h.
 */
#ifndef FRACGPU_LIMITER_SHARE_LOCK_H
#define FRACGPU_LIMITER_SHARE_LOCK_H

#include <stdbool.h>
#include <stdint.h>

#include "ledger.h"

enum fg_share_area {
    FG_SHARE_OFFERED = 0,              /* by the process that pays for it, since it was shared */
    FG_SHARE_HELD = 1,                 /* by each process that has it from another */
    FG_SHARE_LEFT = 2                  /* by the process that pays for it, once it has no part in it any more */
};

/* One piece of shared memory: the slot of the process that made it, and a number of that process's own choice. */
struct fg_share_name {
    uint32_t slot;                     /* 12 bits */
    uint32_t number;                   /* 28 bits */
    uint32_t granules;                 /* 20 bits; of FG_SHARE_GRANULE bytes, rounded up */
};

#define FG_SHARE_GRANULE    (UINT64_C(2) << 20)
#define FG_SHARE_NUMBERS    (UINT32_C(1) << 28)
#define FG_SHARE_OFFSET_MAX (UINT64_C(1) << 60)

struct fg_share_name fg_share_name(uint32_t slot, uint32_t number, uint64_t bytes);

/* The same as a range of offsets that fits any file, and back. False for a range that is none. */
uint64_t fg_share_offset(const struct fg_share_name *name);
bool fg_share_parse(uint64_t first, uint64_t last, struct fg_share_name *name);
/* Tells one state file from another. */
uint64_t fg_share_tag(const struct fg_ledger *ledger);

/* Take the locks of `name`, for which `bytes` are charged, in the areas whose bits are set in `areas`. What is returned
 * keeps them; NULL: not to be had. */
void *fg_share_lock(const struct fg_ledger *ledger, const struct fg_share_name *name, uint64_t bytes, unsigned areas);
void fg_share_unlock(void *kept);

/* Whether anybody has the lock of `name` in `area`; `granules` is then filled from it. An error counts as yes. */
bool fg_share_locked(const struct fg_ledger *ledger, enum fg_share_area area, struct fg_share_name *name);

/* Bytes that the process of `slot` shared and that somebody else holds. `descriptor` is open on the state file. */
uint64_t fg_share_held_bytes(int descriptor, uint32_t slot);

/* Bytes that others still pay for although nobody holds them any more. */
uint64_t fg_share_stale_bytes(const struct fg_ledger *ledger);

#endif

/*
 * ledger.h: one allocation's state file as one process sees it: its own slot, and everybody else's.
 *
 * There is no lock and no shared total. A process announces what it wants in its own slot, adds up all slots, and
 * takes what it announced or withdraws. A process that is killed, at whatever instruction, leaves behind a slot whose
 * lock the kernel has released: nothing to repair, only to stop counting.
 */
#ifndef FRACGPU_LIMITER_LEDGER_H
#define FRACGPU_LIMITER_LEDGER_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#include "../abi/fracgpu_abi.h"
#include "fault.h"
#include "page.h"

enum fg_kind {
    FG_PLAIN = 0,
    FG_MANAGED = 1,
    FG_POOL = 2,
    FG_HOST = 3,                       /* pinned memory of the host: counted, never limited */
    FG_OVERHEAD = 4                    /* what comes with contexts and code: in overhead_bytes, not in committed_bytes */
};

struct fg_ledger {
    struct fracgpu_state_header *header;
    unsigned char *slots;
    struct fracgpu_slot *own;
    uint32_t slot_count;
    uint32_t slot_stride;
    uint32_t own_index;
    size_t mapped_bytes;
    dev_t device;
    ino_t inode;
    uint64_t reaped_ns;        /* when this process last looked for dead slots */
    /* The lowest and highest committed_bytes since fg_ledger_mark. */
    uint64_t low_mark;
    uint64_t high_mark;
    char path[FG_PATH_BYTES];
};

/* What a scan of all live slots found, in bytes. */
struct fg_totals {
    uint64_t committed;                /* charged, with overhead */
    uint64_t pending;                  /* announced, the caller's own included */
    bool others;                       /* another slot than the caller's is live */
};

enum fg_verdict {
    FG_GRANTED = 0,
    FG_REFUSED = 1
};

/* ledger.c: the geometry that a header claims, checked against the size of its file. */
enum fg_fault fg_ledger_check(const struct fracgpu_state_header *header, off_t file_bytes, const uint8_t uuid[16]);

/* attach.c: map the file and take a slot. On a fault nothing stays mapped or locked. */
enum fg_fault fg_ledger_attach(struct fg_ledger *ledger, const char *path, const uint8_t uuid[16]);
void fg_ledger_detach(struct fg_ledger *ledger);

/* reserve.c. `limit` in bytes. A granted reservation is charged until fg_ledger_discharge takes it back. */
enum fg_verdict fg_ledger_reserve(struct fg_ledger *ledger, uint64_t limit, uint64_t bytes, enum fg_kind kind);
/* Charge without a limit. Also for memory that is already there, and so can not be refused any more. */
void fg_ledger_charge(struct fg_ledger *ledger, uint64_t bytes, enum fg_kind kind);
void fg_ledger_discharge(struct fg_ledger *ledger, uint64_t bytes, enum fg_kind kind);
/* Begin anew with the marks. A change by another thread at this very moment may be missed. */
void fg_ledger_mark(struct fg_ledger *ledger);
void fg_ledger_record_refusal(struct fg_ledger *ledger, uint64_t bytes);
struct fg_totals fg_ledger_scan(const struct fg_ledger *ledger);
/* Committed bytes of all live processes; looks for dead ones first, at most every FG_REAP_INTERVAL_NS. */
uint64_t fg_ledger_used(struct fg_ledger *ledger);

/* reaper.c: stop counting slots whose owner is gone. */
struct fg_reaped {
    unsigned slots;                    /* turned from live to dead */
    bool busy;                         /* somebody else was reaping: look again */
};
struct fg_reaped fg_ledger_reap(struct fg_ledger *ledger);

/* usage.c: all live processes, one after the other, for a reader that holds no slot: as their owners wrote them, so that
 * nothing in a slot is to be believed. */
typedef void fg_usage_visit(void *context, const struct fracgpu_slot *slot, uint32_t index);
enum fg_fault fg_usage_each(const char *path, const uint8_t uuid[16], fg_usage_visit *visit, void *context);

#define FG_REAP_INTERVAL_NS UINT64_C(20000000)

static inline struct fracgpu_slot *fg_slot(const struct fg_ledger *ledger, uint32_t index)
{
    return (struct fracgpu_slot *)(void *)(ledger->slots + (size_t)index * ledger->slot_stride);
}

/* Slots from here on have never been used. */
static inline uint64_t fg_high_water(const struct fg_ledger *ledger)
{
    uint64_t mark = __atomic_load_n(&ledger->header->slot_high_water, __ATOMIC_SEQ_CST);
    return mark < ledger->slot_count ? mark : ledger->slot_count;
}

static inline off_t fg_slot_offset(const struct fg_ledger *ledger, uint32_t index)
{
    return (off_t)(ledger->slots - (unsigned char *)ledger->header) + (off_t)index * ledger->slot_stride;
}

#endif

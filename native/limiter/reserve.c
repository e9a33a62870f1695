/*
 * reserve.c: the hard limit without a lock: announce, add up, take or withdraw.
 *
 * Of two processes that together want more than is left, at least one sees the other's announcement, because both
 * announce before they look. A reservation that moves from pending to committed is added there before it is removed
 * here, and every reader looks at pending first, so it is counted at least once at every instant.
 */
#include <time.h>

#include "amount.h"
#include "ledger.h"
#include "pause.h"

/* Short waits for announcements that are about to be decided, then longer ones for owners that lost their CPU. */
enum { SPINNING_TRIES = 8, TRIES = 24, LONGEST_SLEEP_US = 1600 };

/* Where a test lets another process act, to show that the order of the two reads matters. */
#ifdef FRACGPU_TEST_BETWEEN_READS
void FRACGPU_TEST_BETWEEN_READS(const struct fg_ledger *ledger, uint32_t index);
#define BETWEEN_READS(ledger, index) FRACGPU_TEST_BETWEEN_READS(ledger, index)
#else
#define BETWEEN_READS(ledger, index) ((void)0)
#endif

struct fg_totals fg_ledger_scan(const struct fg_ledger *ledger)
{
    struct fg_totals totals = {.committed = 0, .pending = 0, .others = false};
    uint64_t high_water = fg_high_water(ledger);
    for (uint32_t index = 0; index < high_water; index++) {
        const struct fracgpu_slot *slot = fg_slot(ledger, index);
        if (__atomic_load_n(&slot->state, __ATOMIC_SEQ_CST) != FRACGPU_SLOT_LIVE)
            continue;
#ifndef FRACGPU_MUTANT_SCAN_ORDER
        totals.pending += fg_amount(__atomic_load_n(&slot->pending_bytes, __ATOMIC_SEQ_CST));
        BETWEEN_READS(ledger, index);
        totals.committed += fg_amount(__atomic_load_n(&slot->committed_bytes, __ATOMIC_SEQ_CST));
#else
        totals.committed += fg_amount(__atomic_load_n(&slot->committed_bytes, __ATOMIC_SEQ_CST));
        BETWEEN_READS(ledger, index);
        totals.pending += fg_amount(__atomic_load_n(&slot->pending_bytes, __ATOMIC_SEQ_CST));
#endif
        totals.committed += fg_amount(__atomic_load_n(&slot->overhead_bytes, __ATOMIC_SEQ_CST));
        totals.others |= slot != ledger->own;
    }
    return totals;
}

static void count_kind(struct fracgpu_slot *slot, enum fg_kind kind, uint64_t change)
{
    if (kind == FG_MANAGED)
        __atomic_fetch_add(&slot->managed_bytes, change, __ATOMIC_RELAXED);
    else if (kind == FG_POOL)
        __atomic_fetch_add(&slot->pool_bytes, change, __ATOMIC_RELAXED);
}

static void lift(uint64_t *mark, uint64_t value)
{
    uint64_t seen = __atomic_load_n(mark, __ATOMIC_RELAXED);
    /* A failed exchange means that another thread lifted it. */
    while (seen < value && !__atomic_compare_exchange_n(mark, &seen, value, 0, __ATOMIC_RELAXED, __ATOMIC_RELAXED)) {
    }
}

static void sink(uint64_t *mark, uint64_t value)
{
    uint64_t seen = __atomic_load_n(mark, __ATOMIC_RELAXED);
    while (seen > value && !__atomic_compare_exchange_n(mark, &seen, value, 0, __ATOMIC_RELAXED, __ATOMIC_RELAXED)) {
    }
}

/* Add to what is charged, whatever the limit. `change` may be negative. */
static void change_charge(struct fg_ledger *ledger, uint64_t change, enum fg_kind kind)
{
    if (kind == FG_OVERHEAD) {
        __atomic_fetch_add(&ledger->own->overhead_bytes, change, __ATOMIC_SEQ_CST);
        return;
    }
    uint64_t now = fg_amount(__atomic_add_fetch(&ledger->own->committed_bytes, change, __ATOMIC_SEQ_CST));
    lift(&ledger->high_mark, now);
    sink(&ledger->low_mark, now);
    count_kind(ledger->own, kind, change);
}

void fg_ledger_mark(struct fg_ledger *ledger)
{
    uint64_t now = fg_amount(__atomic_load_n(&ledger->own->committed_bytes, __ATOMIC_SEQ_CST));
    __atomic_store_n(&ledger->low_mark, now, __ATOMIC_RELAXED);
    __atomic_store_n(&ledger->high_mark, now, __ATOMIC_RELAXED);
}

static void raise_peak(struct fracgpu_state_header *header, uint64_t total)
{
    uint64_t peak = __atomic_load_n(&header->peak_bytes, __ATOMIC_RELAXED);
    /* A failed exchange means that somebody raised the peak; a few rounds are enough for the highest to get in. */
    for (int attempt = 0; attempt < 64 && peak < total; attempt++) {
        if (__atomic_compare_exchange_n(&header->peak_bytes, &peak, total, 0, __ATOMIC_RELAXED, __ATOMIC_RELAXED))
            return;
    }
}

static void wait_for_others(int attempt)
{
    if (attempt < SPINNING_TRIES) {
        /* The stack's address differs between threads and processes: enough to keep them out of step. */
        unsigned rounds = 16u << attempt;
        rounds += (unsigned)((uintptr_t)&rounds >> 4) % rounds;
        for (unsigned round = 0; round < rounds; round++)
            fg_pause();
        return;
    }
    unsigned sleep = 50u << (attempt - SPINNING_TRIES < 6 ? attempt - SPINNING_TRIES : 6);
    sleep = sleep > LONGEST_SLEEP_US ? LONGEST_SLEEP_US : sleep;
    fg_sleep(sleep / 2 + (unsigned)(fg_clock_ns(CLOCK_MONOTONIC) % sleep) / 2);
}

enum fg_verdict fg_ledger_reserve(struct fg_ledger *ledger, uint64_t limit, uint64_t bytes, enum fg_kind kind)
{
    struct fracgpu_slot *own = ledger->own;
    if (bytes > limit || bytes > FG_AMOUNT_MAX)
        return FG_REFUSED;
    bool reaped = false;
    for (int attempt = 0; attempt < TRIES; attempt++) {
        __atomic_fetch_add(&own->pending_bytes, bytes, __ATOMIC_SEQ_CST);
        struct fg_totals totals = fg_ledger_scan(ledger);
        if (totals.committed + totals.pending <= limit) {
            change_charge(ledger, bytes, kind);
            __atomic_fetch_sub(&own->pending_bytes, bytes, __ATOMIC_SEQ_CST);
            raise_peak(ledger->header, totals.committed + bytes);
            return FG_GRANTED;
        }
        __atomic_fetch_sub(&own->pending_bytes, bytes, __ATOMIC_SEQ_CST);
        if (!reaped) {
            struct fg_reaped result = fg_ledger_reap(ledger);
            reaped = !result.busy;
            if (result.slots != 0)
                continue;
            if (result.busy) {
                wait_for_others(attempt);
                continue;
            }
        }
        /* Only what others have announced, and may yet withdraw, is in the way. */
        if (totals.committed + bytes > limit)
            return FG_REFUSED;
        wait_for_others(attempt);
    }
    return FG_REFUSED;
}

/* What is not the GPU's is no part of what is committed. */
static bool counted_apart(struct fracgpu_slot *slot, enum fg_kind kind, uint64_t change)
{
    if (kind == FG_HOST)
        __atomic_fetch_add(&slot->host_pinned_bytes, change, __ATOMIC_RELAXED);
    return kind == FG_HOST;
}

void fg_ledger_charge(struct fg_ledger *ledger, uint64_t bytes, enum fg_kind kind)
{
    if (counted_apart(ledger->own, kind, bytes))
        return;
    change_charge(ledger, bytes, kind);
    raise_peak(ledger->header, fg_ledger_scan(ledger).committed);
}

void fg_ledger_discharge(struct fg_ledger *ledger, uint64_t bytes, enum fg_kind kind)
{
    if (counted_apart(ledger->own, kind, 0 - bytes))
        return;
    change_charge(ledger, 0 - bytes, kind);
}

void fg_ledger_record_refusal(struct fg_ledger *ledger, uint64_t bytes)
{
    __atomic_store_n(&ledger->header->last_refused_bytes, bytes, __ATOMIC_RELAXED);
    __atomic_store_n(&ledger->header->last_refusal_ns, fg_clock_ns(CLOCK_REALTIME), __ATOMIC_RELAXED);
    __atomic_fetch_add(&ledger->header->refusals, 1, __ATOMIC_RELAXED);
}

uint64_t fg_ledger_used(struct fg_ledger *ledger)
{
    struct fg_totals totals = fg_ledger_scan(ledger);
    if (!totals.others)
        return totals.committed;
    uint64_t now = fg_clock_ns(CLOCK_MONOTONIC_COARSE);
    if (now - __atomic_load_n(&ledger->reaped_ns, __ATOMIC_RELAXED) < FG_REAP_INTERVAL_NS)
        return totals.committed;
    return fg_ledger_reap(ledger).slots == 0 ? totals.committed : fg_ledger_scan(ledger).committed;
}

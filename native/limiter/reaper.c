/*
 * reaper.c: finding slots whose owner is gone.
 *
 * To declare a slot dead one must hold its lock. Otherwise the slot could be taken anew between the question whether
 * its lock is free and the answer's use, and a live process would stop counting.
 *
 * What the dead process shared and a living one still holds is on the GPU as before. Its slot goes on counting for that,
 * and for nothing else, until nobody holds it: no other process has to take it over.
 */
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include "amount.h"
#include "ledger.h"
#include "pause.h"
#include "share_lock.h"
#include "slot_lock.h"

static bool same_file(const struct fg_ledger *ledger, int descriptor)
{
    struct stat status;
    return fstat(descriptor, &status) == 0 && status.st_dev == ledger->device && status.st_ino == ledger->inode;
}

/* Whoever declares a slot dead is alone with it. True when it counts for less than before. */
static bool keep_what_is_held(struct fracgpu_slot *slot, uint64_t held)
{
    uint64_t committed = fg_amount(__atomic_load_n(&slot->committed_bytes, __ATOMIC_SEQ_CST));
    bool less = held < committed || __atomic_load_n(&slot->pending_bytes, __ATOMIC_SEQ_CST) != 0 ||
                __atomic_load_n(&slot->overhead_bytes, __ATOMIC_SEQ_CST) != 0;
    __atomic_store_n(&slot->committed_bytes, fg_min(held, committed), __ATOMIC_SEQ_CST);
    __atomic_store_n(&slot->pending_bytes, 0, __ATOMIC_SEQ_CST);
    __atomic_store_n(&slot->overhead_bytes, 0, __ATOMIC_SEQ_CST);
    __atomic_store_n(&slot->pool_bytes, 0, __ATOMIC_RELAXED);
    __atomic_store_n(&slot->managed_bytes, 0, __ATOMIC_RELAXED);
    __atomic_store_n(&slot->host_pinned_bytes, 0, __ATOMIC_RELAXED);
    return less;
}

static void reap_slot(struct fg_ledger *ledger, int descriptor, uint32_t index, struct fg_reaped *reaped)
{
    struct fracgpu_slot *slot = fg_slot(ledger, index);
    off_t offset = fg_slot_offset(ledger, index);
    if (fg_slot_locked(descriptor, offset))
        return;
    if (!fg_slot_lock(descriptor, offset)) {
        reaped->busy = true;
        return;
    }
    uint32_t live = FRACGPU_SLOT_LIVE;
    uint64_t held = fg_share_held_bytes(descriptor, index);
    if (held != 0 && __atomic_load_n(&slot->state, __ATOMIC_SEQ_CST) == live)
        reaped->slots += keep_what_is_held(slot, held);
    else if (__atomic_compare_exchange_n(&slot->state, &live, FRACGPU_SLOT_DEAD, 0, __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST)) {
        __atomic_fetch_add(&ledger->header->reaped_slots, 1, __ATOMIC_RELAXED);
        reaped->slots++;
    }
    fg_slot_unlock(descriptor, offset);
}

struct fg_reaped fg_ledger_reap(struct fg_ledger *ledger)
{
    struct fg_reaped reaped = {.slots = 0, .busy = false};
    __atomic_store_n(&ledger->reaped_ns, fg_clock_ns(CLOCK_MONOTONIC_COARSE), __ATOMIC_RELAXED);
    int descriptor = -1;
    uint64_t high_water = fg_high_water(ledger);
    for (uint32_t index = 0; index < high_water; index++) {
        const struct fracgpu_slot *slot = fg_slot(ledger, index);
        if (slot == ledger->own || __atomic_load_n(&slot->state, __ATOMIC_SEQ_CST) != FRACGPU_SLOT_LIVE)
            continue;
        if (descriptor < 0) {
            descriptor = open(ledger->path, O_RDWR | O_CLOEXEC | O_NONBLOCK | O_NOCTTY);
            if (descriptor < 0)
                return reaped;
            if (!same_file(ledger, descriptor))
                break;
        }
        reap_slot(ledger, descriptor, index, &reaped);
    }
    if (descriptor >= 0)
        close(descriptor);
    return reaped;
}

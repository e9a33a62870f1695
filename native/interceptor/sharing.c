/*
 * sharing.c: see sharing.h.
 */
#include "sharing.h"

#include "../limiter/amount.h"
#include "../limiter/share_lock.h"
#include "share_mark.h"

/* Numbers that are counted and numbers that are derived never meet. */
#define COUNTED_BIT (FG_SHARE_NUMBERS >> 1)
#define NAME_TRIES  64

#define BIT(area) (1u << (area))

enum share_kind { OFFERED, HELD };

enum left_state { LEFT_FREE, LEFT_BUSY, LEFT_CHARGED };

uint32_t fg_sharing_number(const void *handle, size_t bytes)
{
    uint64_t mixed = UINT64_C(0xcbf29ce484222325);
    for (size_t index = 0; index < bytes; index++)
        mixed = (mixed ^ ((const unsigned char *)handle)[index]) * UINT64_C(0x100000001b3);
    return (uint32_t)((mixed ^ mixed >> 32) % COUNTED_BIT);
}

static const struct fg_ledger *ledger_of(const struct fg_process *process, uint32_t member)
{
    return &process->members[member].ledger;
}

/* In the table a name is its offset with the granules in the bits that are zero there. */
static uint64_t pack(const struct fg_share_name *name)
{
    return fg_share_offset(name) | name->granules;
}

static struct fg_share_name unpack(uint64_t packed)
{
    struct fg_share_name name = {.slot = 0, .number = 0, .granules = 0};
    uint64_t granules = packed & ((UINT64_C(1) << 20) - 1);
    fg_share_parse(packed - granules, packed - 1, &name);
    return name;
}

/* A number of this slot's under which nobody holds anything from before. */
static struct fg_share_name new_name(struct fg_process *process, const struct fg_charge *charge)
{
    const struct fg_ledger *ledger = ledger_of(process, charge->member);
    struct fg_share_name name = fg_share_name(ledger->own_index, 0, charge->bytes);
    for (int attempt = 0; attempt < NAME_TRIES; attempt++) {
        uint32_t counted = __atomic_add_fetch(&process->last_share, 1, __ATOMIC_RELAXED);
        struct fg_share_name found = name;
        name.number = COUNTED_BIT | counted % COUNTED_BIT;
        found.number = name.number;
        if (!fg_share_locked(ledger, FG_SHARE_HELD, &found))
            break;
    }
    return name;
}

static void remember(struct fg_process *process, uint64_t key, void *kept, const struct fg_share_name *name,
                     uint32_t member, enum share_kind kind)
{
    struct fg_value share = {.bytes = (uintptr_t)kept, .link = pack(name), .member = member, .kind = kind};
    if (kept != NULL && !fg_table_insert(&process->shares, key, &share))
        fg_share_unlock(kept);
}

void fg_sharing_offer(struct fg_process *process, uint64_t key, const struct fg_charge *charge, uint32_t number)
{
    if (charge->bytes == 0 || fg_table_find(&process->shares, key) != NULL)
        return;
    const struct fg_ledger *ledger = ledger_of(process, charge->member);
    struct fg_share_name name = number == FG_SHARING_COUNTED
                                    ? new_name(process, charge)
                                    : fg_share_name(ledger->own_index, number, charge->bytes);
    void *kept = fg_share_lock(ledger, &name, charge->bytes, BIT(FG_SHARE_OFFERED));
    remember(process, key, kept, &name, charge->member, OFFERED);
}

void fg_sharing_mark(struct fg_process *process, uint64_t key, int descriptor)
{
    const struct fg_value *share = fg_table_find(&process->shares, key);
    if (share == NULL)
        return;
    struct fg_share_mark mark = {.tag = fg_share_tag(ledger_of(process, share->member)), .name = unpack(share->link)};
    fg_share_mark(descriptor, &mark);
}

static void hold(struct fg_process *process, uint64_t key, uint32_t member, const struct fg_share_name *name,
                 struct fg_charge *charge)
{
    const struct fg_ledger *ledger = ledger_of(process, member);
    void *kept = fg_share_lock(ledger, name, 0, BIT(FG_SHARE_HELD));
    struct fg_share_name offered = *name;
    /* Announced first: whoever pays and stops looks for this lock after it has taken back its own. */
    if (charge != NULL && kept != NULL && !fg_share_locked(ledger, FG_SHARE_OFFERED, &offered)) {
        uint64_t bytes = fg_multiply(name->granules, FG_SHARE_GRANULE);
        *charge = (struct fg_charge){.bytes = bytes, .member = member, .kind = FG_PLAIN};
        fg_ledger_charge(&process->members[member].ledger, bytes, FG_PLAIN);
        void *both = fg_share_lock(ledger, name, 0, BIT(FG_SHARE_HELD) | BIT(FG_SHARE_OFFERED));
        if (both != NULL) {
            fg_share_unlock(kept);
            kept = both;
        }
    }
    remember(process, key, kept, name, member, HELD);
}

void fg_sharing_hold_marked(struct fg_process *process, uint64_t key, int descriptor, struct fg_charge *charge)
{
    struct fg_share_mark mark;
    *charge = (struct fg_charge){.bytes = 0, .member = 0, .kind = FG_PLAIN};
    if (!fg_share_read_mark(descriptor, &mark))
        return;
    for (uint32_t member = 0; member < process->member_count; member++) {
        if (fg_share_tag(ledger_of(process, member)) == mark.tag) {
            hold(process, key, member, &mark.name, charge);
            return;
        }
    }
}

void fg_sharing_hold_number(struct fg_process *process, uint64_t key, uint32_t number)
{
    for (uint32_t member = 0; member < process->member_count; member++) {
        const struct fg_ledger *ledger = ledger_of(process, member);
        uint64_t high_water = fg_high_water(ledger);
        for (uint32_t slot = 0; slot < high_water; slot++) {
            struct fg_share_name name = fg_share_name(slot, number, 1);
            if (__atomic_load_n(&fg_slot(ledger, slot)->state, __ATOMIC_RELAXED) != FRACGPU_SLOT_LIVE ||
                !fg_share_locked(ledger, FG_SHARE_OFFERED, &name))
                continue;
            hold(process, key, member, &name, NULL);
            return;
        }
    }
}

/* Whether the charge of what ended here has to stay, because somebody holds `name`. */
static bool leave(struct fg_process *process, const struct fg_share_name *name, const struct fg_charge *charge)
{
    const struct fg_ledger *ledger = ledger_of(process, charge->member);
    struct fg_share_name held = *name;
    if (!fg_share_locked(ledger, FG_SHARE_HELD, &held))
        return false;
    for (uint32_t index = 0; index < FG_LEFT_MAX; index++) {
        struct fg_left *left = &process->left[index];
        uint32_t free = LEFT_FREE;
        if (!__atomic_compare_exchange_n(&left->state, &free, LEFT_BUSY, 0, __ATOMIC_ACQUIRE, __ATOMIC_RELAXED))
            continue;
        left->charge = *charge;
        left->name = pack(name);
        left->kept = fg_share_lock(ledger, name, charge->bytes, BIT(FG_SHARE_OFFERED) | BIT(FG_SHARE_LEFT));
        __atomic_store_n(&left->state, LEFT_CHARGED, __ATOMIC_RELEASE);
        __atomic_store_n(&process->left_any, 1, __ATOMIC_SEQ_CST);
        return true;
    }
    /* No room to remember it: charged until this process ends. */
    return true;
}

bool fg_sharing_ended(struct fg_process *process, uint64_t key, const struct fg_charge *charge)
{
    struct fg_value share;
    if (!fg_table_take(&process->shares, key, &share))
        return false;
    fg_share_unlock((void *)(uintptr_t)share.bytes);
    struct fg_share_name name = unpack(share.link);
    /* Also what was taken over from a process that is gone may be held by a third. */
    return charge->bytes != 0 && leave(process, &name, charge);
}

bool fg_sharing_settle(struct fg_process *process)
{
    bool settled = false, remain = false;
    if (__atomic_exchange_n(&process->left_any, 0, __ATOMIC_SEQ_CST) == 0)
        return false;
    for (uint32_t index = 0; index < FG_LEFT_MAX; index++) {
        struct fg_left *left = &process->left[index];
        uint32_t charged = LEFT_CHARGED;
        if (!__atomic_compare_exchange_n(&left->state, &charged, LEFT_BUSY, 0, __ATOMIC_ACQUIRE, __ATOMIC_RELAXED)) {
            remain |= charged != LEFT_FREE;
            continue;
        }
        struct fg_share_name name = unpack(left->name);
        bool held = fg_share_locked(ledger_of(process, left->charge.member), FG_SHARE_HELD, &name);
        if (!held) {
            /* The charge first: others may count it as free for as long as the lock says so. */
            fg_discharge(&left->charge);
            fg_share_unlock(left->kept);
        }
        settled |= !held;
        remain |= held;
        __atomic_store_n(&left->state, held ? LEFT_CHARGED : LEFT_FREE, __ATOMIC_RELEASE);
    }
    if (remain)
        __atomic_store_n(&process->left_any, 1, __ATOMIC_SEQ_CST);
    return settled;
}

bool fg_sharing_reserve(struct fg_group *group, uint64_t bytes, enum fg_kind kind, struct fg_charge *charge)
{
    for (uint32_t index = 0; index < group->count; index++) {
        struct fg_member *member = group->members[index];
        struct fg_limits limits = fg_page_limits(&member->page);
        uint64_t stale = fg_share_stale_bytes(&member->ledger);
        if (stale == 0 || !limits.limited ||
            fg_ledger_reserve(&member->ledger, fg_add(limits.memory_bytes, stale), bytes, kind) != FG_GRANTED)
            continue;
        *charge = (struct fg_charge){.bytes = bytes, .member = member->index, .kind = kind};
        /* Whoever paid may have noticed in between, and then the sum had no stale part. */
        stale = fg_share_stale_bytes(&member->ledger);
        struct fg_totals totals = fg_ledger_scan(&member->ledger);
        if (totals.committed + totals.pending <= fg_add(limits.memory_bytes, stale))
            return true;
        fg_discharge(charge);
    }
    return false;
}

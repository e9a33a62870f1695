/*
 * residue.c: see residue.h.
 *
 * The host's number is of a moment between its publication's time stamp and now, and this process may have allocated and
 * freed since. So the lowest and the highest charge of that time are kept, in two windows: one that ends now, and the one
 * before it. The residue lies between what is left of the host's number beside the highest and beside the lowest charge.
 * It is changed only as far as it lies outside: never below what is certain, never above what is possible.
 */
#include "residue.h"

#include <time.h>

#include "../limiter/amount.h"
#include "../limiter/feedback.h"
#include "../limiter/pause.h"
#include "context_charge.h"

#define CHECK_INTERVAL_NS UINT64_C(500000000)
/* Nearer than this it goes there at once, further down by halves: what is given back may come again. */
#define SMALL_BYTES (INT64_C(2) << 20)

static struct fg_residue *residue_of(struct fg_process *process, const struct fg_group *group)
{
    return &process->residues[group - process->groups];
}

static bool read_feedback(const struct fg_group *group, struct fg_slot_feedback *feedback)
{
    for (uint32_t index = 0; index < group->count; index++) {
        const struct fg_member *member = group->members[index];
        const struct fg_ledger *ledger = &member->ledger;
        if (fg_feedback_slot(&member->page, ledger->own_index, ledger->own->generation, feedback))
            return true;
    }
    return false;
}

static bool has_feedback(const struct fg_group *group)
{
    for (uint32_t index = 0; index < group->count; index++) {
        if (group->members[index]->page.feedback != NULL)
            return true;
    }
    return false;
}

/* One thread at a time, and each interval once. */
static bool is_due(struct fg_residue *residue, uint64_t now)
{
    uint64_t checked = __atomic_load_n(&residue->checked_ns, __ATOMIC_RELAXED);
    uint32_t idle = 0;
    if (now - checked < CHECK_INTERVAL_NS ||
        !__atomic_compare_exchange_n(&residue->busy, &idle, 1, 0, __ATOMIC_ACQUIRE, __ATOMIC_RELAXED))
        return false;
    __atomic_store_n(&residue->checked_ns, now, __ATOMIC_RELAXED);
    return true;
}

static struct fg_window marks_of(const struct fg_group *group, uint64_t began_ns)
{
    struct fg_window window = {.began_ns = began_ns};
    for (uint32_t index = 0; index < group->count; index++) {
        window.low += __atomic_load_n(&group->members[index]->ledger.low_mark, __ATOMIC_RELAXED);
        window.high += __atomic_load_n(&group->members[index]->ledger.high_mark, __ATOMIC_RELAXED);
    }
    return window;
}

static void begin_window(struct fg_residue *residue, struct fg_group *group, const struct fg_window *ended, uint64_t now)
{
    residue->former = *ended;
    residue->began_ns = now;
    for (uint32_t index = 0; index < group->count; index++)
        fg_ledger_mark(&group->members[index]->ledger);
}

static int64_t clamp(int64_t value, int64_t lowest, int64_t highest)
{
    return value < lowest ? lowest : value > highest ? highest : value;
}

static int64_t overhead_of(const struct fg_group *group)
{
    int64_t total = 0;
    for (uint32_t index = 0; index < group->count; index++)
        total += (int64_t)fg_amount(__atomic_load_n(&group->members[index]->ledger.own->overhead_bytes, __ATOMIC_SEQ_CST));
    return total;
}

static void correct_to(struct fg_residue *residue, struct fg_group *group, int64_t correction)
{
    struct fg_ledger *ledger = &group->members[0]->ledger;
    int64_t change = correction - residue->correction;
    if (change > 0)
        fg_ledger_charge(ledger, (uint64_t)change, FG_OVERHEAD);
    else if (change < 0)
        fg_ledger_discharge(ledger, (uint64_t)-change, FG_OVERHEAD);
    residue->correction = correction;
}

static void correct(struct fg_residue *residue, struct fg_group *group, const struct fg_window *window, uint64_t used)
{
    int64_t measured = overhead_of(group) - residue->correction;
    int64_t floors = (int64_t)(__atomic_load_n(&residue->contexts, __ATOMIC_SEQ_CST) * FG_CONTEXT_FLOOR_BYTES);
    int64_t certain = (int64_t)used - (int64_t)window->high - measured;
    int64_t possible = (int64_t)used - (int64_t)window->low - measured;
    int64_t correction = clamp(residue->correction, certain, possible);
    if (correction < residue->correction - SMALL_BYTES)
        correction = residue->correction - (residue->correction - correction) / 2;
    /* What was measured may have been others' memory, but a context has its floor. With several allocations on the GPU
     * nobody knows in which one the excess lies. */
    int64_t lowest = group->count == 1 && measured > floors ? floors - measured : 0;
    correct_to(residue, group, correction < lowest ? lowest : correction);
}

static void check(struct fg_residue *residue, struct fg_group *group, uint64_t now)
{
    struct fg_slot_feedback feedback;
    if (__atomic_exchange_n(&residue->restart, 0, __ATOMIC_SEQ_CST) != 0) {
        residue->began_ns = residue->former.began_ns = 0;
        if (__atomic_load_n(&residue->contexts, __ATOMIC_SEQ_CST) == 0)
            correct_to(residue, group, 0);
    }
    if (!read_feedback(group, &feedback) || feedback.published_ns == residue->published_ns) {
        if (residue->began_ns == 0)
            begin_window(residue, group, &(struct fg_window){.began_ns = 0}, now);
        return;
    }
    residue->published_ns = feedback.published_ns;
    struct fg_window ended = marks_of(group, residue->began_ns);
    struct fg_window both = {.began_ns = residue->former.began_ns,
                             .low = fg_min(ended.low, residue->former.low),
                             .high = ended.high > residue->former.high ? ended.high : residue->former.high};
    begin_window(residue, group, &ended, now);
    if (ended.began_ns != 0 && feedback.published_ns >= ended.began_ns)
        correct(residue, group, &ended, feedback.nvml_used_bytes);
    else if (both.began_ns != 0 && feedback.published_ns >= both.began_ns)
        correct(residue, group, &both, feedback.nvml_used_bytes);
}

void fg_residue_check(struct fg_process *process, struct fg_group *group)
{
    if (!has_feedback(group))
        return;
    struct fg_residue *residue = residue_of(process, group);
    uint64_t now = fg_clock_ns(CLOCK_MONOTONIC_COARSE);
    if (!is_due(residue, now))
        return;
    if (fg_page_limits(&group->members[0]->page).overhead)
        check(residue, group, now);
    else
        correct_to(residue, group, 0);
    __atomic_store_n(&residue->busy, 0, __ATOMIC_RELEASE);
}

struct fg_group *fg_residue_group(struct fg_process *process, uint32_t member)
{
    for (uint32_t index = 0; index < process->group_count; index++) {
        struct fg_group *group = &process->groups[index];
        for (uint32_t place = 0; place < group->count; place++) {
            if (group->members[place]->index == member)
                return group;
        }
    }
    return NULL;
}

void fg_residue_restart(struct fg_process *process, struct fg_group *group)
{
    if (group != NULL)
        __atomic_store_n(&residue_of(process, group)->restart, 1, __ATOMIC_SEQ_CST);
}

void fg_residue_context(struct fg_process *process, struct fg_group *group, int change)
{
    struct fg_residue *residue = residue_of(process, group);
    __atomic_fetch_add(&residue->contexts, (uint64_t)(int64_t)change, __ATOMIC_SEQ_CST);
    /* The windows know nothing of contexts: what was read while one came or went is not used. */
    __atomic_store_n(&residue->restart, 1, __ATOMIC_SEQ_CST);
    /* Without a context nothing is left that could be anybody's. */
    __atomic_store_n(&residue->checked_ns, 0, __ATOMIC_RELAXED);
}

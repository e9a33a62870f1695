/*
 * gate.h: where new work waits while the host has suspended an allocation.
 *
 * Everything that gives a GPU new work passes here first: allocations do, launches will. Frees and views never do: a
 * suspended program can give back and look. Nobody may hold anything here that another thread could wait for, and
 * nothing is called here but futex(2) and stat(2), so a stream that is being captured does not notice.
 *
 * A group is suspended while one of its allocations is: what a program launches can not be told apart by claims.
 */
#ifndef FRACGPU_LIMITER_GATE_H
#define FRACGPU_LIMITER_GATE_H

#include "group.h"

enum fg_gate {
    FG_GATE_OPEN = 0,
    FG_GATE_GONE = 1                   /* suspended, and the node has taken the page away: nobody will resume it */
};

/* How long a thread sleeps at most before it looks by itself, should nobody wake it. */
#define FG_GATE_SLICE_MS 500

/* gate.c: wait until no allocation of `group` is suspended. */
enum fg_gate fg_gate_wait(struct fg_group *group);

/* Pass at once, or wait. Per allocation that is one load and one comparison, as long as nothing is suspended. */
static inline enum fg_gate fg_gate_pass(struct fg_group *group)
{
    for (uint32_t index = 0; index < group->count; index++) {
        struct fg_page *page = &group->members[index]->page;
        uint64_t generation = __atomic_load_n(&page->config->generation, __ATOMIC_ACQUIRE);
        if (__builtin_expect(generation != __atomic_load_n(&page->open_generation, __ATOMIC_RELAXED), 0))
            return fg_gate_wait(group);
    }
    return FG_GATE_OPEN;
}

#endif

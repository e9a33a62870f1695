/*
 * Slots come and go: who is dead, who may say so, and what a fork leaves.
 * Several ledgers in one process stand for several processes: each has its own open file, and with it its own slot.
 */
#include <sys/wait.h>

#include "limiter_units.h"
#include "region.h"

static void add_committed(void *total, const struct fracgpu_slot *slot, uint32_t index)
{
    CHECK(index < 4);
    *(uint64_t *)total += slot->committed_bytes;
}

static uint64_t used_of(const char *path)
{
    uint64_t total = 0;
    CHECK(fg_usage_each(path, uuid, add_committed, &total) == FG_OK);
    return total;
}

void test_dead_slots(void)
{
    struct fg_ledger dying, living;
    const char *path = new_state(4);
    CHECK(fg_ledger_attach(&dying, path, uuid) == FG_OK && fg_ledger_attach(&living, path, uuid) == FG_OK);
    CHECK(fg_ledger_reserve(&dying, 1000, 900, FG_PLAIN) == FG_GRANTED);
    CHECK(used_of(path) == 900);
    dying.own->pending_bytes = 50;     /* killed in the middle of a reservation */
    fg_ledger_detach(&dying);
    CHECK(used_of(path) == 0);
    CHECK(fg_ledger_reserve(&living, 1000, 1000, FG_PLAIN) == FG_GRANTED);
    CHECK(fg_slot(&living, 0)->state == FRACGPU_SLOT_DEAD && living.header->reaped_slots == 1);
    CHECK(living.own->state == FRACGPU_SLOT_LIVE);
    /* The next one gets the dead slot, clean. */
    CHECK(fg_ledger_attach(&dying, path, uuid) == FG_OK && dying.own_index == 0);
    CHECK(dying.own->committed_bytes == 0 && dying.own->pending_bytes == 0 && dying.own->generation == 2);
    CHECK(fg_ledger_reap(&living).slots == 0);
    fg_ledger_detach(&dying);
    fg_ledger_detach(&living);
}

void test_reaper_needs_its_file(void)
{
    struct fg_ledger dying, living;
    const char *path = new_state(4);
    CHECK(fg_ledger_attach(&living, path, uuid) == FG_OK && fg_ledger_attach(&dying, path, uuid) == FG_OK);
    CHECK(fg_ledger_reserve(&dying, 1000, 900, FG_PLAIN) == FG_GRANTED);
    char *moved = strdup(path_of("moved"));
    CHECK(rename(path_of("state"), moved) == 0);
    /* Another file in its place has no locks: nobody may be declared dead by it. */
    new_state(4);
    CHECK(fg_ledger_reap(&living).slots == 0 && dying.own->state == FRACGPU_SLOT_LIVE);
    CHECK(unlink(path_of("state")) == 0);
    CHECK(fg_ledger_reap(&living).slots == 0);
    CHECK(rename(moved, path_of("state")) == 0);
    CHECK(fg_ledger_reap(&living).slots == 0);
    free(moved);
    fg_ledger_detach(&dying);
    CHECK(fg_ledger_reap(&living).slots == 1);
    fg_ledger_detach(&living);
}

void test_slots_run_out(void)
{
    struct fg_ledger ledgers[4], late;
    const char *path = new_state(4);
    for (int index = 0; index < 4; index++)
        CHECK(fg_ledger_attach(&ledgers[index], path, uuid) == FG_OK);
    CHECK(fg_ledger_attach(&late, path, uuid) == FG_STATE_FULL && late.header == NULL);
    fg_ledger_detach(&ledgers[2]);
    CHECK(fg_ledger_attach(&late, path, uuid) == FG_OK && late.own_index == 2);
    fg_ledger_detach(&late);
    /* A slot whose owner died while it was taking it. */
    fg_slot(&ledgers[0], 2)->state = FRACGPU_SLOT_CLAIMING;
    CHECK(fg_ledger_attach(&late, path, uuid) == FG_OK && late.own_index == 2);
    fg_ledger_detach(&late);
    for (int index = 0; index < 4; index++)
        fg_ledger_detach(&ledgers[index]);
}

void test_fork(void)
{
    struct fg_ledger ledger, other;
    const char *path = new_state(4);
    int *wiped = fg_region_wiped(4096);
    CHECK(wiped != NULL && fg_ledger_attach(&ledger, path, uuid) == FG_OK);
    *wiped = 1;
    int hold[2], status;
    CHECK(pipe(hold) == 0);
    CHECK(fg_ledger_reserve(&ledger, 1000, 900, FG_PLAIN) == FG_GRANTED);
    pid_t child = fork();
    if (child == 0) {
        char byte;
        close(hold[1]);
        int zero = *wiped == 0;
        CHECK(read(hold[0], &byte, 1) == 0);
        _exit(zero ? 0 : 1);
    }
    close(hold[0]);
    /* The parent's end frees its slot while the child lives on. */
    fg_ledger_detach(&ledger);
    CHECK(fg_ledger_attach(&other, path, uuid) == FG_OK && other.own_index == 0);
    CHECK(fg_ledger_reserve(&other, 1000, 1000, FG_PLAIN) == FG_GRANTED);
    close(hold[1]);
    CHECK(waitpid(child, &status, 0) == child && status == 0);
    fg_ledger_detach(&other);
    fg_region_free(wiped, 4096);
}

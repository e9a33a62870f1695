/*
 * reap_race DIRECTORY: a dead slot is taken by a new process just after the reaper has found its lock free.
 *
 * This file stands for slot_lock.c, so that the new process can act in between. Exit 1: it was declared dead.
 */
#include <fcntl.h>
#include <stdio.h>
#include <unistd.h>

#define fg_slot_locked asked_slot_locked
#include "../../../native/limiter/slot_lock.c"
#undef fg_slot_locked

#include "../../../native/limiter/ledger.h"

static struct fg_ledger newcomer;
static char path[FG_PATH_BYTES];
static const uint8_t uuid[16];
static bool armed;

bool fg_slot_locked(int descriptor, off_t offset)
{
    bool locked = asked_slot_locked(descriptor, offset);
    if (armed && !locked) {
        armed = false;
        if (fg_ledger_attach(&newcomer, path, uuid) != FG_OK)
            return true;
    }
    return locked;
}

int main(int count, char **arguments)
{
    struct fg_ledger own, dying;
    struct fracgpu_state_header header = {.magic = FRACGPU_STATE_MAGIC, .abi_version = FRACGPU_ABI_VERSION,
                                          .header_bytes = FRACGPU_STATE_HEADER_BYTES, .slot_count = 2,
                                          .slot_stride_bytes = FRACGPU_SLOT_STRIDE_BYTES};
    if (count != 2)
        return 3;
    snprintf(path, sizeof(path), "%s/state", arguments[1]);
    int descriptor = open(path, O_RDWR | O_CREAT | O_TRUNC, 0600);
    if (write(descriptor, &header, sizeof(header)) != sizeof(header) || ftruncate(descriptor, 1 << 16) != 0)
        return 3;
    close(descriptor);
    if (fg_ledger_attach(&own, path, uuid) != FG_OK || fg_ledger_attach(&dying, path, uuid) != FG_OK)
        return 3;
    fg_ledger_detach(&dying);
    armed = true;
    struct fg_reaped reaped = fg_ledger_reap(&own);
    if (armed || newcomer.own == NULL || newcomer.own_index != 1)
        return 3;
    return reaped.slots == 0 && reaped.busy && newcomer.own->state == FRACGPU_SLOT_LIVE ? 0 : 1;
}

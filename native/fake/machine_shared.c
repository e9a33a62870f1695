/* machine_shared.c: memory that several processes hold is counted once, for as long as the kernel knows of a holder. */
#define _GNU_SOURCE
#include "ledger.h"

#include <fcntl.h>
#include <string.h>
#include <unistd.h>

static off_t record_offset(uint32_t index)
{
    return (off_t)(FAKE_SHARED_OFFSET + (size_t)index * FAKE_SHARED_BYTES);
}

static struct fake_header *header_of(struct machine *machine)
{
    return (struct fake_header *)machine->base;
}

static uint32_t high_water(struct machine *machine)
{
    uint64_t mark = __atomic_load_n(&header_of(machine)->shared_high_water, __ATOMIC_ACQUIRE);
    return mark < FAKE_SHARED_COUNT ? (uint32_t)mark : FAKE_SHARED_COUNT;
}

static bool record_alive(struct machine *machine, uint32_t index)
{
    return __atomic_load_n(&machine->shared[index].state, __ATOMIC_ACQUIRE) == FAKE_SLOT_LIVE &&
           ledger_lock(machine->lock_fd, F_OFD_GETLK, F_WRLCK, record_offset(index)) == 1;
}

static uint32_t own_slot(struct machine *machine)
{
    return (uint32_t)(machine->own - machine->slots);
}

static bool held_by(const struct fake_shared *record, uint32_t slot)
{
    return (__atomic_load_n(&record->holders[slot / 8], __ATOMIC_RELAXED) >> slot % 8 & 1) != 0;
}

static void mark_holder(struct fake_shared *record, uint32_t slot, bool holds)
{
    uint8_t bit = (uint8_t)(1u << slot % 8);
    if (holds) {
        __atomic_fetch_or(&record->holders[slot / 8], bit, __ATOMIC_RELAXED);
    } else {
        __atomic_fetch_and(&record->holders[slot / 8], (uint8_t)~bit, __ATOMIC_RELAXED);
    }
}

uint64_t machine_shared_bytes(struct machine *machine, int gpu)
{
    uint64_t total = 0;
    for (uint32_t i = 0; i < high_water(machine); i++) {
        if (machine->shared[i].gpu == (uint32_t)gpu && record_alive(machine, i)) {
            total += machine->shared[i].bytes;
        }
    }
    return total;
}

/* The process that a record is shown with: the one that made it, then any living holder. */
static bool shown_with(struct machine *machine, const struct fake_shared *record, uint32_t slot)
{
    if (held_by(record, record->owner) && ledger_slot_alive(machine, &machine->slots[record->owner])) {
        return record->owner == slot;
    }
    for (uint32_t other = 0; other < slot; other++) {
        if (held_by(record, other) && ledger_slot_alive(machine, &machine->slots[other])) {
            return false;
        }
    }
    return held_by(record, slot);
}

uint64_t machine_shared_bytes_of(struct machine *machine, int gpu, uint32_t slot)
{
    uint64_t total = 0;
    for (uint32_t i = 0; i < high_water(machine); i++) {
        struct fake_shared *record = &machine->shared[i];
        if (record->gpu == (uint32_t)gpu && record_alive(machine, i) && shown_with(machine, record, slot)) {
            total += record->bytes;
        }
    }
    return total;
}

void machine_forget_slot(struct machine *machine, uint32_t slot)
{
    for (uint32_t i = 0; i < high_water(machine); i++) {
        mark_holder(&machine->shared[i], slot, false);
    }
}

static enum machine_status share(struct machine *machine, int gpu, uint64_t bytes, struct machine_hold *hold)
{
    for (uint32_t i = 0; i < FAKE_SHARED_COUNT; i++) {
        struct fake_shared *record = &machine->shared[i];
        if (record_alive(machine, i)) {
            continue;
        }
        __atomic_store_n(&record->state, FAKE_SLOT_FREE, __ATOMIC_RELEASE);
        hold->mapping = ledger_hold(machine, F_RDLCK, record_offset(i));
        if (hold->mapping == NULL) {
            return MACHINE_BROKEN;
        }
        memset(record, 0, sizeof *record);
        record->gpu = (uint32_t)gpu;
        record->bytes = bytes;
        record->serial = ++header_of(machine)->shared_serial;
        record->owner = own_slot(machine);
        mark_holder(record, record->owner, true);
        if (i >= high_water(machine)) {
            __atomic_store_n(&header_of(machine)->shared_high_water, i + 1, __ATOMIC_RELEASE);
        }
        /* What was this process's alone is in the record from now on. */
        uint64_t own = machine->own->used_bytes[gpu];
        __atomic_store_n(&machine->own->used_bytes[gpu], own >= bytes ? own - bytes : 0, __ATOMIC_RELAXED);
        __atomic_store_n(&record->state, FAKE_SLOT_LIVE, __ATOMIC_RELEASE);
        hold->index = i;
        hold->serial = record->serial;
        return MACHINE_OK;
    }
    return MACHINE_NO_SLOT;
}

enum machine_status machine_share(struct machine *machine, int gpu, uint64_t bytes, struct machine_hold *hold)
{
    if (!ledger_enter(machine)) {
        return MACHINE_BROKEN;
    }
    enum machine_status status = ledger_have_slot(machine);
    if (status == MACHINE_OK) {
        status = share(machine, gpu, bytes, hold);
    }
    ledger_leave(machine);
    return status;
}

enum machine_status machine_join(struct machine *machine, uint32_t index, uint64_t serial, struct machine_hold *hold)
{
    if (index >= FAKE_SHARED_COUNT || !ledger_enter(machine)) {
        return MACHINE_BROKEN;
    }
    enum machine_status status = ledger_have_slot(machine);
    if (status == MACHINE_OK && (!record_alive(machine, index) || machine->shared[index].serial != serial)) {
        status = MACHINE_ABSENT;
    }
    if (status == MACHINE_OK) {
        *hold = (struct machine_hold){ index, serial, ledger_hold(machine, F_RDLCK, record_offset(index)) };
        status = hold->mapping != NULL ? MACHINE_OK : MACHINE_BROKEN;
    }
    if (status == MACHINE_OK) {
        mark_holder(&machine->shared[index], own_slot(machine), true);
    }
    ledger_leave(machine);
    return status;
}

void machine_leave(struct machine *machine, struct machine_hold *hold)
{
    bool locked = ledger_enter(machine);
    if (machine->own != NULL) {
        mark_holder(&machine->shared[hold->index], own_slot(machine), false);
    }
    ledger_let_go(hold->mapping);
    if (locked) {
        ledger_leave(machine);
    }
}

int machine_hold_descriptor(struct machine *machine, const struct machine_hold *hold)
{
    int fd = open(machine->path, O_RDWR | O_CLOEXEC);
    if (fd >= 0 && ledger_lock(fd, F_OFD_SETLK, F_RDLCK, record_offset(hold->index)) != 0) {
        close(fd);
        fd = -1;
    }
    return fd;
}

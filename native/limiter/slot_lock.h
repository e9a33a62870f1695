/*
 * slot_lock.h: the lock that says a slot's owner is alive.
 *
 * An open-file-description lock belongs to the open file, and the owner keeps that open through its mapping alone:
 * closing descriptors does not release it, a pid namespace does not hide it, a recycled pid does not fake it, and
 * the kernel drops it when the process ends in whatever way.
 */
#ifndef FRACGPU_LIMITER_SLOT_LOCK_H
#define FRACGPU_LIMITER_SLOT_LOCK_H

#include <stdbool.h>
#include <sys/types.h>

/* Try to take the write lock of the byte at `offset` for the open file `descriptor`. Never waits. */
bool fg_slot_lock(int descriptor, off_t offset);
void fg_slot_unlock(int descriptor, off_t offset);

/* Whether another open file holds it. An error counts as held: an owner is never declared dead by mistake. */
bool fg_slot_locked(int descriptor, off_t offset);

#endif

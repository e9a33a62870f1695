/*
 * sharing.h: memory that processes of one allocation share is charged once, to the process that made it, for as long as
 * that process or any other of the allocation has it.
 *
 * An importer announces what it holds with locks on the state file (share_lock.h). Who made the memory looks for them
 * when its own part in it ends: if there are any, the charge stays until they are gone. What came from another
 * allocation, or from nobody that is known, costs nothing here.
 */
#ifndef FRACGPU_INTERCEPTOR_SHARING_H
#define FRACGPU_INTERCEPTOR_SHARING_H

#include <stdbool.h>

#include "charge.h"
#include "process.h"

/* Numbers of shared memory: derived from what is handed to other processes, or counted. */
#define FG_SHARING_COUNTED UINT32_MAX
uint32_t fg_sharing_number(const void *handle, size_t bytes);

/* What is charged with `charge` may be in other processes from now on. `key` names it in this process. */
void fg_sharing_offer(struct fg_process *process, uint64_t key, const struct fg_charge *charge, uint32_t number);

/* Tell whoever receives `descriptor` what it stands for; and what a received one says. */
void fg_sharing_mark(struct fg_process *process, uint64_t key, int descriptor);

/* This process has imported what `descriptor` stands for. `charge` is what it has to pay: nothing, unless nobody of its
 * allocation pays any more. */
void fg_sharing_hold_marked(struct fg_process *process, uint64_t key, int descriptor, struct fg_charge *charge);
/* The same for what goes by a number. */
void fg_sharing_hold_number(struct fg_process *process, uint64_t key, uint32_t number);

/* This process has no part in `key` any more. True: `charge` must stay, and will be taken back in time. */
bool fg_sharing_ended(struct fg_process *process, uint64_t key, const struct fg_charge *charge);

/* Take back the charges of what nobody holds any more. True when there were any. */
bool fg_sharing_settle(struct fg_process *process);

/* Reserve although the sum exceeds the limit, where others pay for what nobody holds and have not noticed yet. */
bool fg_sharing_reserve(struct fg_group *group, uint64_t bytes, enum fg_kind kind, struct fg_charge *charge);

/* The kind of an entry in process->imports: beyond enum fg_kind. */
#define FG_IMPORTED 64u

/* ipc.c: a pointer that is about to be freed has been exported or imported. `value` is what to pass on when it was. */
void fg_ipc_pointer_freed(struct fg_process *process, CUdeviceptr address);
bool fg_ipc_forget(struct fg_process *process, CUdeviceptr address, struct fg_value *value);
void fg_ipc_freed(struct fg_process *process, CUresult code, CUdeviceptr address, const struct fg_value *value);

#endif

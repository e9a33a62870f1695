/*
 * vmm.h: references to physical memory that something other than a handle or an address mapping holds.
 *
 * `serial` is the key of the memory in process->physicals. Each hold keeps the memory charged until it is dropped.
 */
#ifndef FRACGPU_INTERCEPTOR_VMM_H
#define FRACGPU_INTERCEPTOR_VMM_H

#include "process.h"

/* The memory that `handle` stands for; 0, and nothing held, for memory that this process is not charged for. */
uint64_t fg_physical_hold_handle(struct fg_process *process, CUmemGenericAllocationHandle handle);
void fg_physical_hold(struct fg_process *process, uint64_t serial);
void fg_physical_drop(struct fg_process *process, uint64_t serial);

#endif

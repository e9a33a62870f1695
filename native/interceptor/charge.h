/*
 * charge.h: the steps that every accounted allocation and free is made of.
 *
 * Reserve before the driver is called, remember the pointer after it succeeded; forget the pointer before the driver
 * frees it (the driver may hand the same address to another thread at once), discharge after it did.
 */
#ifndef FRACGPU_INTERCEPTOR_CHARGE_H
#define FRACGPU_INTERCEPTOR_CHARGE_H

#include "process.h"

/* What the driver takes of the GPU for a request of that size. It hands out memory in granules, of which small requests
 * share some. What they do not fill is left to the host's feedback: nobody can tell from here which of them share one. */
uint64_t fg_granted(uint64_t bytes);

/* Reserve `bytes` of the current context's GPU, waiting while it is suspended. CUDA_SUCCESS, or the error that the
 * program gets. */
CUresult fg_charge_current(uint64_t bytes, enum fg_kind kind, struct fg_charge *charge);

/* New work on the group's GPU begins: wait while the host has it suspended. Call it before anything is in hand. */
CUresult fg_wait_while_suspended(struct fg_group *group);

/* The same for a known group, waiting like all new work. Before it refuses, it takes back what the process's own pools
 * hold unused. */
CUresult fg_charge_group(struct fg_process *process, struct fg_group *group, uint64_t bytes, enum fg_kind kind,
                         struct fg_charge *charge);

/* The same without waiting, for a caller that has something in hand and has waited before. */
CUresult fg_charge_group_now(struct fg_process *process, struct fg_group *group, uint64_t bytes, enum fg_kind kind,
                             struct fg_charge *charge);

/* Count memory of the host, which no limit is set for, where the current context's GPU is charged. False: nowhere. */
bool fg_charge_host(struct fg_process *process, uint64_t bytes, struct fg_charge *charge);

/* Make a charge be `bytes`, when the driver took another amount than was reserved. False when that is refused: the
 * charge is then what it was. */
bool fg_charge_adjust(struct fg_charge *charge, uint64_t bytes);

/* Take back a reservation, or the charge of something that has been freed. */
void fg_discharge(const struct fg_charge *charge);

/* The context that owns what this thread allocates, as a table's link. What a context takes with it is found by it
 * (orphans.h). */
uint64_t fg_current_context(void);

/* Remember, as the current context's, that `charge` is what `address` costs; false: no memory for it, the caller must free `address` again. */
bool fg_remember(CUdeviceptr address, const struct fg_charge *charge);

#endif

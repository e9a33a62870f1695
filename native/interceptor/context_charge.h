/*
 * context_charge.h: what a context takes, charged before it is made and corrected after.
 *
 * A context's size is known to nobody in advance, and the driver says nothing about it. So a floor is reserved, which
 * every context needs: what has no room for that is refused. After the call the difference in the GPU's free memory
 * shows what the context took, as far as somebody can look, for that needs a context of the same GPU before the call. Other
 * processes' allocations in the same milliseconds are in that difference too; it may be too high, is never taken for less
 * than the floor, and is put right by what the host observes (residue.h).
 */
#ifndef FRACGPU_INTERCEPTOR_CONTEXT_CHARGE_H
#define FRACGPU_INTERCEPTOR_CONTEXT_CHARGE_H

#include <stdbool.h>

#include "process.h"

#define FG_CONTEXT_FLOOR_BYTES (UINT64_C(64) << 20)
#define FG_CONTEXT_MAX_BYTES   (UINT64_C(2) << 30)

/* A look at the memory of a GPU, by which a later one tells what was taken. */
struct fg_look {
    uint64_t free_bytes;
    uint64_t charged_bytes;            /* by this process */
    bool seen;
};

/* A call that may raise a context. */
struct fg_rise {
    struct fg_process *process;
    struct fg_group *group;            /* NULL: not counted */
    struct fg_charge charge;
    struct fg_look before;
    bool measured;
};

/* Look at `group`'s GPU with the current context; nothing is seen when that is of another device. */
struct fg_look fg_look_at(struct fg_process *process, struct fg_group *group, CUdevice device);

/* What was taken since `before` by other than this process's charged allocations; 0 when it can not be told. */
uint64_t fg_taken_since(struct fg_process *process, const struct fg_look *before, struct fg_group *group,
                        CUdevice device);

/* Reserve for a context on `device`. CUDA_SUCCESS, or the error that the program gets. */
CUresult fg_rise_begin(struct fg_rise *rise, CUdevice device);

/* There is one now: make the charge what it took. */
void fg_rise_measure(struct fg_rise *rise, CUdevice device);

/* There is none: take the reservation back. */
void fg_rise_cancel(struct fg_rise *rise);

/* A context that had this charge has ended. */
void fg_context_discharge(struct fg_process *process, const struct fg_charge *charge);

#endif

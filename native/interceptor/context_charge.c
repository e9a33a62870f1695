/*
 * context_charge.c: see context_charge.h.
 */
#include "context_charge.h"

#include "../limiter/amount.h"
#include "capture_mode.h"
#include "charge.h"
#include "devices.h"
#include "real.h"
#include "residue.h"

static uint64_t charged_by_us(const struct fg_group *group)
{
    uint64_t total = 0;
    for (uint32_t index = 0; index < group->count; index++) {
        const struct fracgpu_slot *own = group->members[index]->ledger.own;
        total += fg_amount(__atomic_load_n(&own->committed_bytes, __ATOMIC_SEQ_CST));
        total += fg_amount(__atomic_load_n(&own->overhead_bytes, __ATOMIC_SEQ_CST));
    }
    return total;
}

struct fg_look fg_look_at(struct fg_process *process, struct fg_group *group, CUdevice device)
{
    struct fg_look look = {.seen = false};
    CUdevice current = -1;
    size_t free_bytes, total_bytes;
    (void)process;
    int mode = fg_capture_relax();
    if (FG_CALL(cuCtxGetDevice, &current) == CUDA_SUCCESS && current == device &&
        FG_CALL(cuMemGetInfo_v2, &free_bytes, &total_bytes) == CUDA_SUCCESS)
        look = (struct fg_look){.free_bytes = free_bytes, .charged_bytes = charged_by_us(group), .seen = true};
    fg_capture_restore(mode);
    return look;
}

uint64_t fg_taken_since(struct fg_process *process, const struct fg_look *before, struct fg_group *group,
                        CUdevice device)
{
    if (!before->seen)
        return 0;
    struct fg_look after = fg_look_at(process, group, device);
    if (!after.seen)
        return 0;
    /* Other threads of this process: what they charged meanwhile is theirs, what they gave back is not free of cost. */
    uint64_t gone = fg_add(before->free_bytes, after.charged_bytes < before->charged_bytes
                                                   ? before->charged_bytes - after.charged_bytes : 0);
    uint64_t expected = fg_add(after.free_bytes, fg_subtract(after.charged_bytes, before->charged_bytes));
    return fg_min(fg_subtract(gone, expected), FG_CONTEXT_MAX_BYTES);
}

CUresult fg_rise_begin(struct fg_rise *rise, CUdevice device)
{
    *rise = (struct fg_rise){.process = fg_process()};
    if (rise->process == NULL)
        return CUDA_ERROR_SYSTEM_NOT_READY;
    struct fg_group *group;
    /* A device that does not exist is the driver's to refuse, and one without an allocation gives no memory anyway. */
    if (fg_group_of_device(rise->process, device, &group) != CUDA_SUCCESS ||
        !fg_page_limits(&group->members[0]->page).overhead)
        return CUDA_SUCCESS;
    CUresult code = fg_charge_group(rise->process, group, FG_CONTEXT_FLOOR_BYTES, FG_OVERHEAD, &rise->charge);
    if (code != CUDA_SUCCESS)
        return code;
    rise->group = group;
    rise->before = fg_look_at(rise->process, group, device);
    return CUDA_SUCCESS;
}

void fg_rise_measure(struct fg_rise *rise, CUdevice device)
{
    if (rise->group == NULL)
        return;
    rise->measured = true;
    fg_residue_context(rise->process, rise->group, 1);
    uint64_t taken = fg_taken_since(rise->process, &rise->before, rise->group, device);
    if (taken <= rise->charge.bytes)
        return;
    /* The memory is taken, so this is not asked for but stated; what comes next pays for it. */
    struct fg_ledger *ledger = &rise->process->members[rise->charge.member].ledger;
    fg_ledger_charge(ledger, taken - rise->charge.bytes, FG_OVERHEAD);
    rise->charge.bytes = taken;
}

void fg_rise_cancel(struct fg_rise *rise)
{
    if (rise->group != NULL && rise->measured)
        fg_context_discharge(rise->process, &rise->charge);
    else if (rise->group != NULL)
        fg_discharge(&rise->charge);
    rise->group = NULL;
}

void fg_context_discharge(struct fg_process *process, const struct fg_charge *charge)
{
    struct fg_group *group = fg_residue_group(process, charge->member);
    fg_discharge(charge);
    if (charge->bytes == 0 || group == NULL)
        return;
    fg_residue_context(process, group, -1);
    fg_residue_check(process, group);
}

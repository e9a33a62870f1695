/*
 * charge.c: see charge.h.
 */
#include "charge.h"

#include "../limiter/amount.h"
#include "../limiter/gate.h"
#include "capture_mode.h"
#include "devices.h"
#include "pools.h"
#include "real.h"
#include "residue.h"
#include "sharing.h"

#define GRANULE_BYTES     (UINT64_C(2) << 20)
#define SHARED_BYTES_MOST (UINT64_C(1) << 20)

uint64_t fg_granted(uint64_t bytes)
{
    return bytes <= SHARED_BYTES_MOST ? bytes : fg_round_up(bytes, GRANULE_BYTES);
}

CUresult fg_wait_while_suspended(struct fg_group *group)
{
    return fg_gate_pass(group) == FG_GATE_OPEN ? CUDA_SUCCESS : CUDA_ERROR_SYSTEM_NOT_READY;
}

CUresult fg_charge_group(struct fg_process *process, struct fg_group *group, uint64_t bytes, enum fg_kind kind,
                         struct fg_charge *charge)
{
    CUresult code = fg_wait_while_suspended(group);
    return code == CUDA_SUCCESS ? fg_charge_group_now(process, group, bytes, kind, charge) : code;
}

CUresult fg_charge_group_now(struct fg_process *process, struct fg_group *group, uint64_t bytes, enum fg_kind kind,
                             struct fg_charge *charge)
{
    fg_residue_check(process, group);
    if (fg_group_reserve(group, bytes, kind, charge))
        return CUDA_SUCCESS;
    if (fg_pools_reclaim(process, group) && fg_group_reserve(group, bytes, kind, charge))
        return CUDA_SUCCESS;
    if (fg_sharing_settle(process) && fg_group_reserve(group, bytes, kind, charge))
        return CUDA_SUCCESS;
    if (fg_sharing_reserve(group, bytes, kind, charge))
        return CUDA_SUCCESS;
    fg_group_record_refusal(group, bytes);
    return CUDA_ERROR_OUT_OF_MEMORY;
}

CUresult fg_charge_current(uint64_t bytes, enum fg_kind kind, struct fg_charge *charge)
{
    struct fg_process *process = fg_process();
    struct fg_group *group;
    if (process == NULL)
        return CUDA_ERROR_SYSTEM_NOT_READY;
    CUresult code = fg_group_of_context(process, &group);
    return code == CUDA_SUCCESS ? fg_charge_group(process, group, bytes, kind, charge) : code;
}

bool fg_charge_host(struct fg_process *process, uint64_t bytes, struct fg_charge *charge)
{
    struct fg_group *group;
    int mode = fg_capture_relax();
    CUresult code = fg_group_of_context(process, &group);
    fg_capture_restore(mode);
    if (code != CUDA_SUCCESS)
        return false;
    struct fg_member *member = group->members[0];
    *charge = (struct fg_charge){.bytes = fg_min(bytes, FG_AMOUNT_MAX), .member = member->index, .kind = FG_HOST};
    fg_ledger_charge(&member->ledger, charge->bytes, FG_HOST);
    return true;
}

bool fg_charge_adjust(struct fg_charge *charge, uint64_t bytes)
{
    struct fg_process *process = fg_process_attached();
    if (process == NULL || bytes == charge->bytes)
        return true;
    struct fg_member *member = &process->members[charge->member];
    struct fg_limits limits = fg_page_limits(&member->page);
    if (bytes < charge->bytes) {
        fg_ledger_discharge(&member->ledger, charge->bytes - bytes, charge->kind);
    } else if (!limits.limited) {
        bytes = fg_min(bytes, FG_AMOUNT_MAX);
        fg_ledger_charge(&member->ledger, fg_subtract(bytes, charge->bytes), charge->kind);
    } else if (fg_ledger_reserve(&member->ledger, limits.memory_bytes, bytes - charge->bytes, charge->kind) ==
               FG_REFUSED) {
        fg_ledger_record_refusal(&member->ledger, bytes);
        return false;
    }
    charge->bytes = bytes;
    return true;
}

void fg_discharge(const struct fg_charge *charge)
{
    struct fg_process *process = fg_process_attached();
    if (process != NULL && charge->bytes != 0)
        fg_ledger_discharge(&process->members[charge->member].ledger, charge->bytes, charge->kind);
}

uint64_t fg_current_context(void)
{
    CUcontext context = NULL;
    return FG_CALL(cuCtxGetCurrent, &context) == CUDA_SUCCESS ? (uint64_t)(uintptr_t)context : 0;
}

bool fg_remember(CUdeviceptr address, const struct fg_charge *charge)
{
    struct fg_process *process = fg_process_attached();
    struct fg_value value = {
        .bytes = charge->bytes, .link = fg_current_context(), .member = charge->member, .kind = charge->kind};
    return process != NULL && fg_table_insert(&process->pointers, address, &value);
}

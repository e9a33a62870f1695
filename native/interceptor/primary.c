/*
 * primary.c: the primary context of each device, which the driver makes at the first retain and ends with the last release.
 *
 * Its references are the driver's business, and libraries hold some that no hook sees. Whether the context is there is
 * therefore asked before and after each call that can raise or lower it, and the charge follows. A green context retains
 * the primary context for as long as it lives.
 */
#include "../limiter/amount.h"
#include "capture_mode.h"
#include "charge.h"
#include "context_charge.h"
#include "devices.h"
#include "orphans.h"
#include "pools.h"
#include "real.h"

/* The word of a charge: bytes in the upper 56 bits, the member in the next seven, and a bit that there is one. */
static uint64_t pack(const struct fg_charge *charge)
{
    return charge->bytes << 8 | (uint64_t)charge->member << 1 | 1;
}

static struct fg_charge unpack(uint64_t word)
{
    return (struct fg_charge){
        .bytes = word >> 8, .member = (uint32_t)(word >> 1) % FG_MEMBERS_MAX, .kind = FG_OVERHEAD};
}

static bool is_active(CUdevice device)
{
    unsigned int flags = 0;
    int active = 0;
    int mode = fg_capture_relax();
    CUresult code = FG_CALL(cuDevicePrimaryCtxGetState, device, &flags, &active);
    fg_capture_restore(mode);
    return code == CUDA_SUCCESS && active != 0;
}

static struct fg_primary *primary_of(struct fg_process *process, CUdevice device)
{
    return process == NULL || device < 0 || device >= FG_DEVICES_MAX ? NULL : &process->primaries[device];
}

/* A call that retains the primary context begins; `raises` says whether it looks as if it would make it. */
static CUresult retaining(struct fg_rise *rise, CUdevice device, bool *raises)
{
    *rise = (struct fg_rise){.process = fg_process()};
    if (rise->process == NULL)
        return CUDA_ERROR_SYSTEM_NOT_READY;
    *raises = primary_of(rise->process, device) != NULL && !is_active(device);
    return *raises ? fg_rise_begin(rise, device) : CUDA_SUCCESS;
}

static void retained(struct fg_rise *rise, CUresult code, CUdevice device, bool raises)
{
    struct fg_primary *primary = primary_of(rise->process, device);
    if (code == CUDA_SUCCESS && primary != NULL)
        __atomic_fetch_add(&primary->references, 1, __ATOMIC_SEQ_CST);
    if (code != CUDA_SUCCESS || !raises || rise->group == NULL) {
        fg_rise_cancel(rise);
        return;
    }
    fg_rise_measure(rise, device);
    uint64_t none = 0;
    /* Of several threads that found no context one made it, and one charge is its. */
    if (!__atomic_compare_exchange_n(&primary->charge, &none, pack(&rise->charge), 0, __ATOMIC_SEQ_CST,
                                     __ATOMIC_SEQ_CST))
        fg_rise_cancel(rise);
}

CUresult fg_hook_cuDevicePrimaryCtxRetain(CUcontext *context, CUdevice device)
{
    struct fg_rise rise;
    CUcontext result = NULL;
    bool raises;
    CUresult code = retaining(&rise, device, &raises);
    if (code != CUDA_SUCCESS)
        return code;
    code = FG_CALL(cuDevicePrimaryCtxRetain, context == NULL ? NULL : &result, device);
    retained(&rise, code, device, raises);
    if (code == CUDA_SUCCESS)
        *context = result;
    return code;
}

/* A call that may end the primary context. */
struct fall {
    struct fg_process *process;
    struct fg_group *group;
    struct fg_primary *primary;
    struct fg_orphans orphans;
    bool expected;                     /* its orphans have been taken */
    bool active;                       /* before the call */
};

static void begin_fall(struct fall *fall, CUdevice device, bool always)
{
    *fall = (struct fall){.process = fg_process_attached()};
    fall->primary = primary_of(fall->process, device);
    if (fall->primary == NULL || fg_group_of_device(fall->process, device, &fall->group) != CUDA_SUCCESS)
        fall->primary = NULL;
    if (fall->primary == NULL || !is_active(device))
        return;
    fall->active = true;
    fall->expected = always || __atomic_load_n(&fall->primary->references, __ATOMIC_SEQ_CST) <= 1;
    if (fall->expected)
        fg_orphans_of_primary(&fall->orphans, fall->process, fall->group);
}

static void discharge(struct fg_process *process, struct fg_primary *primary)
{
    uint64_t word = __atomic_exchange_n(&primary->charge, 0, __ATOMIC_SEQ_CST);
    struct fg_charge charge = unpack(word);
    if (word != 0)
        fg_context_discharge(process, &charge);
}

static void drop_reference(struct fg_primary *primary)
{
    uint64_t references = __atomic_load_n(&primary->references, __ATOMIC_SEQ_CST);
    /* A failed exchange means that another thread came or went. */
    while (references > 0 && !__atomic_compare_exchange_n(&primary->references, &references, references - 1, 0,
                                                          __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST)) {
    }
}

static void end_fall(struct fall *fall, CUresult code, CUdevice device, bool releases)
{
    if (fall->primary == NULL)
        return;
    if (code == CUDA_SUCCESS && releases)
        drop_reference(fall->primary);
    if (!fall->active)
        return;
    if (code != CUDA_SUCCESS || is_active(device)) {
        if (fall->expected)
            fg_orphans_restore(&fall->orphans);
        return;
    }
    if (!fall->expected)
        fg_orphans_of_primary(&fall->orphans, fall->process, fall->group);
    discharge(fall->process, fall->primary);
    fg_orphans_discharge(&fall->orphans);
    fg_pools_settle();
}

#define FALL_HOOK(name, always, releases) \
    CUresult fg_hook_##name(CUdevice device) \
    { \
        struct fall fall; \
        begin_fall(&fall, device, always); \
        CUresult code = FG_CALL(name, device); \
        end_fall(&fall, code, device, releases); \
        return code; \
    }

FALL_HOOK(cuDevicePrimaryCtxRelease, false, true)
FALL_HOOK(cuDevicePrimaryCtxRelease_v2, false, true)
FALL_HOOK(cuDevicePrimaryCtxReset, true, false)
FALL_HOOK(cuDevicePrimaryCtxReset_v2, true, false)

CUresult fg_hook_cuGreenCtxCreate(CUgreenCtx *context, void *description, CUdevice device, unsigned int flags)
{
    struct fg_rise rise;
    CUgreenCtx result = NULL;
    bool raises;
    CUresult code = retaining(&rise, device, &raises);
    if (code != CUDA_SUCCESS)
        return code;
    code = FG_CALL(cuGreenCtxCreate, context == NULL ? NULL : &result, description, device, flags);
    struct fg_value record = {.bytes = 0, .link = (uint64_t)device, .member = 0, .kind = FG_OVERHEAD};
    if (code == CUDA_SUCCESS &&
        !fg_table_insert(&rise.process->green_contexts, (uint64_t)(uintptr_t)result, &record)) {
        FG_CALL(cuGreenCtxDestroy, result);
        code = CUDA_ERROR_OUT_OF_MEMORY;
    }
    retained(&rise, code, device, raises);
    if (code == CUDA_SUCCESS)
        *context = result;
    return code;
}

CUresult fg_hook_cuGreenCtxDestroy(CUgreenCtx context)
{
    struct fg_process *process = fg_process_attached();
    uint64_t key = (uint64_t)(uintptr_t)context;
    struct fg_value record;
    struct fall fall;
    if (process == NULL || !fg_table_take(&process->green_contexts, key, &record))
        return FG_CALL(cuGreenCtxDestroy, context);
    CUdevice device = (CUdevice)record.link;
    begin_fall(&fall, device, false);
    CUresult code = FG_CALL(cuGreenCtxDestroy, context);
    end_fall(&fall, code, device, true);
    if (code != CUDA_SUCCESS)
        fg_table_insert(&process->green_contexts, key, &record);
    return code;
}

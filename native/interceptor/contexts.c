/*
 * contexts.c: contexts that a program creates for itself.
 *
 * Each is remembered with its charge and its references: cuCtxAttach adds one and cuCtxDetach takes one, and the last
 * one ends the context as cuCtxDestroy does at once.
 */
#include "../limiter/amount.h"
#include "charge.h"
#include "context_charge.h"
#include "orphans.h"
#include "pools.h"
#include "real.h"

static bool remember(const struct fg_rise *rise, CUcontext context)
{
    struct fg_value value = {.bytes = rise->group == NULL ? 0 : rise->charge.bytes, .link = 1,
                             .member = rise->charge.member, .kind = FG_OVERHEAD};
    return fg_table_insert(&rise->process->contexts, (uint64_t)(uintptr_t)context, &value);
}

/* After the driver's answer: the charge of the context, or none. */
static CUresult conclude(struct fg_rise *rise, CUresult code, CUcontext context, CUdevice device)
{
    if (code == CUDA_SUCCESS) {
        fg_rise_measure(rise, device);
        if (!remember(rise, context)) {
            FG_CALL(cuCtxDestroy_v2, context);
            code = CUDA_ERROR_OUT_OF_MEMORY;
        }
    }
    if (code != CUDA_SUCCESS)
        fg_rise_cancel(rise);
    return code;
}

#define CREATE_HOOK(name, parameters, ...) \
    CUresult fg_hook_##name parameters \
    { \
        struct fg_rise rise; \
        CUcontext result = NULL; \
        CUresult code = fg_rise_begin(&rise, device); \
        if (code != CUDA_SUCCESS) \
            return code; \
        code = FG_CALL(name, context == NULL ? NULL : &result, __VA_ARGS__); \
        code = conclude(&rise, code, result, device); \
        if (code == CUDA_SUCCESS) \
            *context = result; \
        return code; \
    }

CREATE_HOOK(cuCtxCreate, (CUcontext *context, unsigned int flags, CUdevice device), flags, device)
CREATE_HOOK(cuCtxCreate_v2, (CUcontext *context, unsigned int flags, CUdevice device), flags, device)
CREATE_HOOK(cuCtxCreate_v3, (CUcontext *context, void *affinities, int count, unsigned int flags, CUdevice device),
            affinities, count, flags, device)
CREATE_HOOK(cuCtxCreate_v4, (CUcontext *context, void *parameters, unsigned int flags, CUdevice device), parameters,
            flags, device)

/* The record of a context that is about to end, out of the table; false: none of the program's own. */
static bool forget(struct fg_process *process, CUcontext context, struct fg_value *record)
{
    return process != NULL && fg_table_take(&process->contexts, (uint64_t)(uintptr_t)context, record);
}

static void ended(struct fg_process *process, CUresult code, CUcontext context, const struct fg_value *record,
                  struct fg_orphans *orphans)
{
    if (code != CUDA_SUCCESS) {
        fg_table_insert(&process->contexts, (uint64_t)(uintptr_t)context, record);
        fg_orphans_restore(orphans);
        return;
    }
    fg_orphans_discharge(orphans);
    struct fg_charge charge = {.bytes = record->bytes, .member = record->member, .kind = FG_OVERHEAD};
    fg_context_discharge(process, &charge);
}

/* All spellings differ only in the call. */
#define DESTROY(name, context) \
    do { \
        struct fg_process *process = fg_process_attached(); \
        struct fg_value record; \
        struct fg_orphans orphans; \
        if (!forget(process, context, &record)) \
            return FG_CALL(name, context); \
        fg_orphans_of_context(&orphans, process, context); \
        CUresult code = FG_CALL(name, context); \
        ended(process, code, context, &record, &orphans); \
        return code; \
    } while (0)

CUresult fg_hook_cuCtxDestroy(CUcontext context) { DESTROY(cuCtxDestroy, context); }
CUresult fg_hook_cuCtxDestroy_v2(CUcontext context) { DESTROY(cuCtxDestroy_v2, context); }

CUresult fg_hook_cuCtxAttach(CUcontext *context, unsigned int flags)
{
    struct fg_process *process = fg_process_attached();
    CUresult code = FG_CALL(cuCtxAttach, context, flags);
    if (code != CUDA_SUCCESS || process == NULL)
        return code;
    struct fg_value *record = fg_table_find(&process->contexts, (uint64_t)(uintptr_t)*context);
    if (record != NULL)
        __atomic_fetch_add(&record->link, 1, __ATOMIC_SEQ_CST);
    return code;
}

CUresult fg_hook_cuCtxDetach(CUcontext context)
{
    struct fg_process *process = fg_process_attached();
    struct fg_value *record =
        process == NULL ? NULL : fg_table_find(&process->contexts, (uint64_t)(uintptr_t)context);
    if (record == NULL || __atomic_sub_fetch(&record->link, 1, __ATOMIC_SEQ_CST) == 0) {
        if (record != NULL)
            __atomic_store_n(&record->link, 1, __ATOMIC_SEQ_CST);
        DESTROY(cuCtxDetach, context);
    }
    CUresult code = FG_CALL(cuCtxDetach, context);
    if (code != CUDA_SUCCESS)
        __atomic_fetch_add(&record->link, 1, __ATOMIC_SEQ_CST);
    return code;
}

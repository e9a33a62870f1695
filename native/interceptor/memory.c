/*
 * memory.c: cuMemAlloc, cuMemAllocPitch, cuMemAllocManaged, cuMemFree, in the spellings of both ABIs.
 *
 * The old ABI has 32-bit pointers and sizes; drivers still export it.
 */
#include "../limiter/amount.h"
#include "charge.h"
#include "graph_memory.h"
#include "pools.h"
#include "real.h"
#include "sharing.h"

/* What the driver aligns a row to, on every GPU so far. The exact pitch is charged once it is known. */
#define PITCH_ALIGNMENT 512u

/* After the driver's answer: keep the charge of an address, or take it back. */
static CUresult conclude(CUresult code, CUdeviceptr address, const struct fg_charge *charge)
{
    if (code == CUDA_SUCCESS && !fg_remember(address, charge)) {
        FG_CALL(cuMemFree_v2, address);
        code = CUDA_ERROR_OUT_OF_MEMORY;
    }
    if (code != CUDA_SUCCESS)
        fg_discharge(charge);
    return code;
}

CUresult fg_hook_cuMemAlloc_v2(CUdeviceptr *address, size_t bytes)
{
    struct fg_charge charge;
    CUdeviceptr result = 0;
    CUresult code = fg_charge_current(fg_granted(bytes), FG_PLAIN, &charge);
    if (code != CUDA_SUCCESS)
        return code;
    code = FG_CALL(cuMemAlloc_v2, address == NULL ? NULL : &result, bytes);
    code = conclude(code, result, &charge);
    if (code == CUDA_SUCCESS)
        *address = result;
    return code;
}

CUresult fg_hook_cuMemAlloc(CUdeviceptr_v1 *address, unsigned int bytes)
{
    struct fg_charge charge;
    CUdeviceptr_v1 result = 0;
    CUresult code = fg_charge_current(fg_granted(bytes), FG_PLAIN, &charge);
    if (code != CUDA_SUCCESS)
        return code;
    code = FG_CALL(cuMemAlloc, address == NULL ? NULL : &result, bytes);
    code = conclude(code, result, &charge);
    if (code == CUDA_SUCCESS)
        *address = result;
    return code;
}

CUresult fg_hook_cuMemAllocManaged(CUdeviceptr *address, size_t bytes, unsigned int flags)
{
    struct fg_charge charge;
    CUdeviceptr result = 0;
    CUresult code = fg_charge_current(fg_granted(bytes), FG_MANAGED, &charge);
    if (code != CUDA_SUCCESS)
        return code;
    code = FG_CALL(cuMemAllocManaged, address == NULL ? NULL : &result, bytes, flags);
    code = conclude(code, result, &charge);
    if (code == CUDA_SUCCESS)
        *address = result;
    return code;
}

static uint64_t expected_pitched_bytes(uint64_t width, uint64_t height)
{
    return fg_multiply(fg_round_up(width, PITCH_ALIGNMENT), height);
}

static CUresult conclude_pitched(CUresult code, CUdeviceptr address, uint64_t bytes, struct fg_charge *charge)
{
    if (code == CUDA_SUCCESS && !fg_charge_adjust(charge, fg_granted(bytes))) {
        FG_CALL(cuMemFree_v2, address);
        code = CUDA_ERROR_OUT_OF_MEMORY;
    }
    return conclude(code, address, charge);
}

CUresult fg_hook_cuMemAllocPitch_v2(CUdeviceptr *address, size_t *pitch, size_t width, size_t height,
                                    unsigned int element)
{
    struct fg_charge charge;
    CUdeviceptr result = 0;
    size_t result_pitch = 0;
    CUresult code = fg_charge_current(fg_granted(expected_pitched_bytes(width, height)), FG_PLAIN, &charge);
    if (code != CUDA_SUCCESS)
        return code;
    code = FG_CALL(cuMemAllocPitch_v2, address == NULL ? NULL : &result, pitch == NULL ? NULL : &result_pitch, width,
                   height, element);
    code = conclude_pitched(code, result, fg_multiply(result_pitch, height), &charge);
    if (code == CUDA_SUCCESS) {
        *address = result;
        *pitch = result_pitch;
    }
    return code;
}

CUresult fg_hook_cuMemAllocPitch(CUdeviceptr_v1 *address, unsigned int *pitch, unsigned int width,
                                 unsigned int height, unsigned int element)
{
    struct fg_charge charge;
    CUdeviceptr_v1 result = 0;
    unsigned int result_pitch = 0;
    CUresult code = fg_charge_current(fg_granted(expected_pitched_bytes(width, height)), FG_PLAIN, &charge);
    if (code != CUDA_SUCCESS)
        return code;
    code = FG_CALL(cuMemAllocPitch, address == NULL ? NULL : &result, pitch == NULL ? NULL : &result_pitch, width,
                   height, element);
    code = conclude_pitched(code, result, fg_multiply(result_pitch, height), &charge);
    if (code == CUDA_SUCCESS) {
        *address = result;
        *pitch = result_pitch;
    }
    return code;
}

/* Both ABIs free the same addresses. A pointer that is not in the table is none of ours: the driver decides. */
static bool forget(CUdeviceptr address, struct fg_value *value)
{
    struct fg_process *process = fg_process_attached();
    if (process == NULL)
        return false;
    if (!fg_table_take(&process->pointers, address, value))
        return fg_ipc_forget(process, address, value);
    if (value->kind == FG_POOL)
        fg_ipc_pointer_freed(process, address);
    return true;
}

static void discharge(struct fg_process *process, const struct fg_value *value)
{
    struct fg_charge charge = {.bytes = value->bytes, .member = value->member, .kind = value->kind};
    /* An allocation that was exported has a name: it stays charged while somebody has it open. */
    if (value->kind != FG_PLAIN || value->link == 0 || !fg_sharing_ended(process, value->link, &charge))
        fg_discharge(&charge);
}

static void freed(CUresult code, CUdeviceptr address, const struct fg_value *value)
{
    struct fg_process *process = fg_process_attached();
    if (process == NULL)
        return;
    if (value->kind == FG_IMPORTED)
        fg_ipc_freed(process, code, address, value);
    else if (code != CUDA_SUCCESS)
        fg_table_insert(&process->pointers, address, value);
    else if (value->kind == FG_POOL)
        fg_pool_pointer_freed(process, value);
    else
        discharge(process, value);
}

static void freed_unknown(CUdeviceptr address)
{
    struct fg_process *process = fg_process_attached();
    if (process != NULL && address != 0)
        fg_graph_pointer_freed(process);
}

/* All spellings differ only in the call: the entry is taken before it and acted upon after it. A free that waits for
 * the GPU lets a pool shrink at once. */
#define FREE_HOOK(name, parameters, afterwards, ...) \
    CUresult fg_hook_##name parameters \
    { \
        struct fg_value value; \
        bool known = forget(address, &value); \
        CUresult code = FG_CALL(name, __VA_ARGS__); \
        if (known) \
            freed(code, address, &value); \
        else \
            freed_unknown(address); \
        afterwards; \
        return code; \
    }

FREE_HOOK(cuMemFree, (CUdeviceptr_v1 address), fg_pools_settle(), address)
FREE_HOOK(cuMemFree_v2, (CUdeviceptr address), fg_pools_settle(), address)
FREE_HOOK(cuMemFreeAsync, (CUdeviceptr address, CUstream stream), (void)0, address, stream)
FREE_HOOK(cuMemFreeAsync_ptsz, (CUdeviceptr address, CUstream stream), (void)0, address, stream)

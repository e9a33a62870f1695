/*
 * host_memory.c: pinned memory of the host: counted for the node, never limited.
 *
 * It takes nothing of the GPU, so nothing here can be refused: where the amount can not be noted, the program gets its
 * memory all the same. What is pinned counts in the account of the GPU that was current when it was pinned.
 */
#include "charge.h"
#include "real.h"

static void pinned(CUresult code, const void *address, uint64_t bytes)
{
    struct fg_process *process = code == CUDA_SUCCESS ? fg_process() : NULL;
    struct fg_charge charge;
    if (process == NULL || !fg_charge_host(process, bytes, &charge))
        return;
    struct fg_value value = {.bytes = charge.bytes, .link = 0, .member = charge.member, .kind = charge.kind};
    if (!fg_table_insert(&process->pinned, (uintptr_t)address, &value))
        fg_discharge(&charge);
}

CUresult fg_hook_cuMemAllocHost(void **address, unsigned int bytes)
{
    CUresult code = FG_CALL(cuMemAllocHost, address, bytes);
    pinned(code, code == CUDA_SUCCESS ? *address : NULL, bytes);
    return code;
}

CUresult fg_hook_cuMemAllocHost_v2(void **address, size_t bytes)
{
    CUresult code = FG_CALL(cuMemAllocHost_v2, address, bytes);
    pinned(code, code == CUDA_SUCCESS ? *address : NULL, bytes);
    return code;
}

CUresult fg_hook_cuMemHostAlloc(void **address, size_t bytes, unsigned int flags)
{
    CUresult code = FG_CALL(cuMemHostAlloc, address, bytes, flags);
    pinned(code, code == CUDA_SUCCESS ? *address : NULL, bytes);
    return code;
}

CUresult fg_hook_cuMemHostRegister(void *address, size_t bytes, unsigned int flags)
{
    CUresult code = FG_CALL(cuMemHostRegister, address, bytes, flags);
    pinned(code, address, bytes);
    return code;
}

CUresult fg_hook_cuMemHostRegister_v2(void *address, size_t bytes, unsigned int flags)
{
    CUresult code = FG_CALL(cuMemHostRegister_v2, address, bytes, flags);
    pinned(code, address, bytes);
    return code;
}

/* The entry is taken before the call and acted upon after it, as with every free: see charge.h. */
static bool forget(const void *address, struct fg_value *value)
{
    struct fg_process *process = fg_process_attached();
    return process != NULL && fg_table_take(&process->pinned, (uintptr_t)address, value);
}

static void unpinned(CUresult code, const void *address, const struct fg_value *value)
{
    struct fg_process *process = fg_process_attached();
    if (process == NULL)
        return;
    if (code != CUDA_SUCCESS)
        fg_table_insert(&process->pinned, (uintptr_t)address, value);
    else
        fg_discharge(&(struct fg_charge){.bytes = value->bytes, .member = value->member, .kind = value->kind});
}

CUresult fg_hook_cuMemFreeHost(void *address)
{
    struct fg_value value;
    bool known = forget(address, &value);
    CUresult code = FG_CALL(cuMemFreeHost, address);
    if (known)
        unpinned(code, address, &value);
    return code;
}

CUresult fg_hook_cuMemHostUnregister(void *address)
{
    struct fg_value value;
    bool known = forget(address, &value);
    CUresult code = FG_CALL(cuMemHostUnregister, address);
    if (known)
        unpinned(code, address, &value);
    return code;
}

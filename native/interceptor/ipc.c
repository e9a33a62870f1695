/*
 * ipc.c: allocations that go to other processes by a handle of 64 bytes.
 *
 * The handle is the same in both processes, so it names the memory. Freeing it while somebody has it open is undefined
 * in CUDA; drivers keep the memory until it is closed, and so does the charge stay.
 */
#include "charge.h"
#include "real.h"
#include "sharing.h"

CUresult fg_hook_cuIpcGetMemHandle(struct fg_ipc_handle *handle, CUdeviceptr address)
{
    struct fg_process *process = fg_process_attached();
    CUresult code = FG_CALL(cuIpcGetMemHandle, handle, address);
    struct fg_value *value = code == CUDA_SUCCESS && process != NULL ? fg_table_find(&process->pointers, address) : NULL;
    if (value == NULL || value->kind != FG_PLAIN)
        return code;
    if (value->link == 0)
        value->link = __atomic_add_fetch(&process->last_serial, 1, __ATOMIC_RELAXED);
    struct fg_charge charge = {.bytes = value->bytes, .member = value->member, .kind = value->kind};
    fg_sharing_offer(process, value->link, &charge, fg_sharing_number(handle, sizeof(*handle)));
    return code;
}

static void opened(CUresult code, const CUdeviceptr *address, const struct fg_ipc_handle *handle)
{
    struct fg_process *process = code == CUDA_SUCCESS ? fg_process() : NULL;
    if (process == NULL)
        return;
    struct fg_value *again = fg_table_find(&process->imports, *address);
    if (again != NULL) {
        __atomic_fetch_add(&again->link, 1, __ATOMIC_SEQ_CST);
        return;
    }
    struct fg_value import = {.bytes = __atomic_add_fetch(&process->last_serial, 1, __ATOMIC_RELAXED), .link = 1};
    fg_sharing_hold_number(process, import.bytes, fg_sharing_number(handle, sizeof(*handle)));
    fg_table_insert(&process->imports, *address, &import);
}

CUresult fg_hook_cuIpcOpenMemHandle(CUdeviceptr *address, struct fg_ipc_handle handle, unsigned int flags)
{
    CUresult code = FG_CALL(cuIpcOpenMemHandle, address, handle, flags);
    opened(code, address, &handle);
    return code;
}

CUresult fg_hook_cuIpcOpenMemHandle_v2(CUdeviceptr *address, struct fg_ipc_handle handle, unsigned int flags)
{
    CUresult code = FG_CALL(cuIpcOpenMemHandle_v2, address, handle, flags);
    opened(code, address, &handle);
    return code;
}

CUresult fg_hook_cuIpcCloseMemHandle(CUdeviceptr address)
{
    struct fg_process *process = fg_process_attached();
    struct fg_value *import = process == NULL ? NULL : fg_table_find(&process->imports, address);
    struct fg_value taken;
    bool last = import != NULL && __atomic_sub_fetch(&import->link, 1, __ATOMIC_SEQ_CST) == 0 &&
                fg_table_take(&process->imports, address, &taken);
    CUresult code = FG_CALL(cuIpcCloseMemHandle, address);
    static const struct fg_charge nothing;
    if (code == CUDA_SUCCESS && last) {
        fg_sharing_ended(process, taken.bytes, &nothing);
    } else if (code != CUDA_SUCCESS && last) {
        taken.link = 1;
        fg_table_insert(&process->imports, address, &taken);
    } else if (code != CUDA_SUCCESS && import != NULL) {
        __atomic_fetch_add(&import->link, 1, __ATOMIC_SEQ_CST);
    }
    return code;
}

/*
 * ipc.c: allocations that go to other processes by a handle of 64 bytes.
 *
 * The handle is the same in both processes, so it names the memory. Freeing it while somebody has it open is undefined
 * in CUDA; drivers keep the memory until it is closed, and so does the charge stay.
 *
 * Allocations of pools go the same way. Their pool pays for as long as it has the memory reserved, so all that a name does
 * for them is that they stay charged when their maker dies.
 */
#include "charge.h"
#include "pool_record.h"
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

static const struct fg_charge free_of_charge;

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
    uint64_t key = __atomic_add_fetch(&process->last_serial, 1, __ATOMIC_RELAXED);
    struct fg_value import = {.bytes = key, .link = 1, .kind = FG_IMPORTED};
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
    if (code == CUDA_SUCCESS && last) {
        fg_sharing_ended(process, taken.bytes, &free_of_charge);
    } else if (code != CUDA_SUCCESS && last) {
        taken.link = 1;
        fg_table_insert(&process->imports, address, &taken);
    } else if (code != CUDA_SUCCESS && import != NULL) {
        __atomic_fetch_add(&import->link, 1, __ATOMIC_SEQ_CST);
    }
    return code;
}

CUresult fg_hook_cuMemPoolImportFromShareableHandle(CUmemoryPool *pool, void *shareable, int type,
                                                    unsigned long long flags)
{
    CUresult code = FG_CALL(cuMemPoolImportFromShareableHandle, pool, shareable, type, flags);
    struct fg_process *process = code == CUDA_SUCCESS ? fg_process() : NULL;
    /* Another process's pool is never charged here, and nothing can be allocated from it. */
    if (process != NULL)
        fg_pool_record(process, *pool, NULL);
    return code;
}

CUresult fg_hook_cuMemPoolExportPointer(struct fg_ipc_handle *data, CUdeviceptr address)
{
    struct fg_process *process = fg_process_attached();
    CUresult code = FG_CALL(cuMemPoolExportPointer, data, address);
    const struct fg_value *value =
        code == CUDA_SUCCESS && process != NULL ? fg_table_find(&process->pointers, address) : NULL;
    if (value == NULL || value->kind != FG_POOL || fg_table_find(&process->exports, address) != NULL)
        return code;
    const struct fg_pool *record = &process->pools[value->link];
    if (record->group == NULL)
        return code;
    struct fg_value export = {.bytes = __atomic_add_fetch(&process->last_serial, 1, __ATOMIC_RELAXED)};
    struct fg_charge charge = {.bytes = value->bytes, .member = record->group->members[0]->index, .kind = FG_POOL};
    fg_sharing_offer(process, export.bytes, &charge, fg_sharing_number(data, sizeof(*data)));
    fg_table_insert(&process->exports, address, &export);
    return code;
}

CUresult fg_hook_cuMemPoolImportPointer(CUdeviceptr *address, CUmemoryPool pool, struct fg_ipc_handle *data)
{
    CUresult code = FG_CALL(cuMemPoolImportPointer, address, pool, data);
    opened(code, address, data);
    return code;
}

void fg_ipc_pointer_freed(struct fg_process *process, CUdeviceptr address)
{
    struct fg_value export;
    if (fg_table_take(&process->exports, address, &export))
        fg_sharing_ended(process, export.bytes, &free_of_charge);
}

bool fg_ipc_forget(struct fg_process *process, CUdeviceptr address, struct fg_value *value)
{
    return fg_table_take(&process->imports, address, value);
}

void fg_ipc_freed(struct fg_process *process, CUresult code, CUdeviceptr address, const struct fg_value *value)
{
    if (code == CUDA_SUCCESS)
        fg_sharing_ended(process, value->bytes, &free_of_charge);
    else
        fg_table_insert(&process->imports, address, value);
}

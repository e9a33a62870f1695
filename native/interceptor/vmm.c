/*
 * vmm.c: physical memory that is created, mapped and released by handle.
 *
 * The driver keeps such memory until its last handle reference is released and its last mapping is gone, in whatever
 * order, so that is how long it is charged. A handle's value stays the same while the memory lives (the driver promises
 * it for cuMemRetainAllocationHandle) and may be given out anew at once afterwards. Two counts are therefore kept:
 *   handles    handle -> references; lowered before a call that may end the memory, so that a new owner of the same
 *              value finds no trace of the old one
 *   physicals  serial number -> charge and references; lowered after the call, because only then the memory is free
 * Imported handles are in the tables as well, with nothing charged: who made the memory pays. See sharing.h.
 */
#include "charge.h"
#include "devices.h"
#include "real.h"
#include "sharing.h"
#include "vmm.h"

/* How many mappings one cuMemUnmap may cover and still be undone if the driver refuses. */
enum { UNMAP_BATCH = 128 };

static bool on_gpu(const struct fg_allocation_prop *prop, CUdevice *device)
{
    if (prop->location.type == CU_MEM_LOCATION_TYPE_DEVICE)
        *device = prop->location.id;
    else if (prop->location.type == CU_MEM_LOCATION_TYPE_DEVICE_LOCALITY_DOMAIN)
        *device = prop->location.id & 0xff;
    else
        return false;
    return true;
}

static uint64_t new_serial(struct fg_process *process)
{
    return __atomic_add_fetch(&process->last_serial, 1, __ATOMIC_RELAXED);
}

static bool remember(struct fg_process *process, CUmemGenericAllocationHandle handle, uint64_t serial,
                     const struct fg_charge *charge)
{
    struct fg_value physical = {.bytes = charge->bytes, .link = 1, .member = charge->member, .kind = charge->kind};
    struct fg_value reference = {.bytes = serial, .link = 1, .member = 0, .kind = 0};
    if (!fg_table_insert(&process->physicals, serial, &physical))
        return false;
    if (fg_table_insert(&process->handles, handle, &reference))
        return true;
    fg_table_take(&process->physicals, serial, &physical);
    return false;
}

CUresult fg_hook_cuMemCreate(CUmemGenericAllocationHandle *handle, size_t bytes, const struct fg_allocation_prop *prop,
                             unsigned long long flags)
{
    CUdevice device;
    struct fg_group *group;
    struct fg_charge charge;
    CUmemGenericAllocationHandle result = 0;
    if (prop == NULL || !on_gpu(prop, &device))
        return FG_CALL(cuMemCreate, handle, bytes, prop, flags);
    struct fg_process *process = fg_process();
    if (process == NULL)
        return CUDA_ERROR_SYSTEM_NOT_READY;
    CUresult code = fg_group_of_device(process, device, &group);
    if (code == CUDA_SUCCESS)
        code = fg_charge_group(process, group, bytes, FG_PLAIN, &charge);
    if (code != CUDA_SUCCESS)
        return code;
    code = FG_CALL(cuMemCreate, handle == NULL ? NULL : &result, bytes, prop, flags);
    if (code == CUDA_SUCCESS && !remember(process, result, new_serial(process), &charge)) {
        FG_CALL(cuMemRelease, result);
        code = CUDA_ERROR_OUT_OF_MEMORY;
    }
    if (code != CUDA_SUCCESS)
        fg_discharge(&charge);
    else
        *handle = result;
    return code;
}

/* The physical memory got one more reference. Returns its key, 0 for memory that is not ours. */
static uint64_t add_reference(struct fg_process *process, CUmemGenericAllocationHandle handle)
{
    struct fg_value *reference = fg_table_find(&process->handles, handle);
    if (reference == NULL)
        return 0;
    struct fg_value *physical = fg_table_find(&process->physicals, reference->bytes);
    if (physical == NULL)
        return 0;
    __atomic_fetch_add(&physical->link, 1, __ATOMIC_SEQ_CST);
    __atomic_fetch_add(&reference->link, 1, __ATOMIC_SEQ_CST);
    return reference->bytes;
}

void fg_physical_hold(struct fg_process *process, uint64_t serial)
{
    struct fg_value *physical = fg_table_find(&process->physicals, serial);
    if (physical != NULL)
        __atomic_fetch_add(&physical->link, 1, __ATOMIC_SEQ_CST);
}

uint64_t fg_physical_hold_handle(struct fg_process *process, CUmemGenericAllocationHandle handle)
{
    struct fg_value *reference = fg_table_find(&process->handles, handle);
    if (reference == NULL)
        return 0;
    uint64_t serial = reference->bytes;
    fg_physical_hold(process, serial);
    return serial;
}

/* Before the call: one reference to `handle` fewer. Returns the key of its memory. */
static uint64_t drop_handle(struct fg_process *process, CUmemGenericAllocationHandle handle)
{
    struct fg_value *reference = fg_table_find(&process->handles, handle);
    if (reference == NULL)
        return 0;
    uint64_t serial = reference->bytes;
    struct fg_value taken;
    if (__atomic_sub_fetch(&reference->link, 1, __ATOMIC_SEQ_CST) == 0)
        fg_table_take(&process->handles, handle, &taken);
    return serial;
}

/* The call failed: undo drop_handle. */
static void restore_handle(struct fg_process *process, CUmemGenericAllocationHandle handle, uint64_t serial)
{
    struct fg_value *reference = fg_table_find(&process->handles, handle);
    struct fg_value again = {.bytes = serial, .link = 1, .member = 0, .kind = 0};
    if (reference != NULL)
        __atomic_fetch_add(&reference->link, 1, __ATOMIC_SEQ_CST);
    else
        fg_table_insert(&process->handles, handle, &again);
}

/* After the call: the memory has one reference fewer, and if that was the last one it is free. */
void fg_physical_drop(struct fg_process *process, uint64_t serial)
{
    struct fg_value *physical = fg_table_find(&process->physicals, serial);
    struct fg_value taken;
    if (physical == NULL || __atomic_sub_fetch(&physical->link, 1, __ATOMIC_SEQ_CST) != 0)
        return;
    if (!fg_table_take(&process->physicals, serial, &taken))
        return;
    struct fg_charge charge = {.bytes = taken.bytes, .member = taken.member, .kind = taken.kind};
    if (!fg_sharing_ended(process, serial, &charge))
        fg_discharge(&charge);
}

CUresult fg_hook_cuMemExportToShareableHandle(void *shareable, CUmemGenericAllocationHandle handle, int type,
                                              unsigned long long flags)
{
    struct fg_process *process = fg_process_attached();
    CUresult code = FG_CALL(cuMemExportToShareableHandle, shareable, handle, type, flags);
    if (code != CUDA_SUCCESS || process == NULL || type != CU_MEM_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR)
        return code;
    const struct fg_value *reference = fg_table_find(&process->handles, handle);
    if (reference == NULL)
        return code;
    const struct fg_value *physical = fg_table_find(&process->physicals, reference->bytes);
    if (physical == NULL)
        return code;
    struct fg_charge charge = {.bytes = physical->bytes, .member = physical->member, .kind = physical->kind};
    fg_sharing_offer(process, reference->bytes, &charge, FG_SHARING_COUNTED);
    fg_sharing_mark(process, reference->bytes, *(const int *)shareable);
    return code;
}

CUresult fg_hook_cuMemImportFromShareableHandle(CUmemGenericAllocationHandle *handle, void *shareable, int type)
{
    CUresult code = FG_CALL(cuMemImportFromShareableHandle, handle, shareable, type);
    struct fg_process *process = code == CUDA_SUCCESS ? fg_process() : NULL;
    /* What can not be remembered is nobody's of ours. A driver may answer with a handle that it gave out before. */
    if (process == NULL || type != CU_MEM_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR || add_reference(process, *handle) != 0)
        return code;
    struct fg_charge charge;
    uint64_t serial = new_serial(process);
    fg_sharing_hold_marked(process, serial, (int)(intptr_t)shareable, &charge);
    if (!remember(process, *handle, serial, &charge) && !fg_sharing_ended(process, serial, &charge))
        fg_discharge(&charge);
    return code;
}

CUresult fg_hook_cuMemRelease(CUmemGenericAllocationHandle handle)
{
    struct fg_process *process = fg_process_attached();
    uint64_t serial = process == NULL ? 0 : drop_handle(process, handle);
    CUresult code = FG_CALL(cuMemRelease, handle);
    if (serial == 0)
        return code;
    if (code == CUDA_SUCCESS)
        fg_physical_drop(process, serial);
    else
        restore_handle(process, handle, serial);
    return code;
}

CUresult fg_hook_cuMemRetainAllocationHandle(CUmemGenericAllocationHandle *handle, void *address)
{
    struct fg_process *process = fg_process_attached();
    CUresult code = FG_CALL(cuMemRetainAllocationHandle, handle, address);
    if (code == CUDA_SUCCESS && process != NULL)
        add_reference(process, *handle);
    return code;
}

CUresult fg_hook_cuMemMap(CUdeviceptr address, size_t bytes, size_t offset, CUmemGenericAllocationHandle handle,
                          unsigned long long flags)
{
    struct fg_process *process = fg_process_attached();
    /* Before the call, so that a release in another thread does not end the charge of what is being mapped. */
    uint64_t serial = process == NULL ? 0 : add_reference(process, handle);
    CUresult code = FG_CALL(cuMemMap, address, bytes, offset, handle, flags);
    if (code != CUDA_SUCCESS && serial != 0) {
        drop_handle(process, handle);
        fg_physical_drop(process, serial);
    }
    /* A mapping that can not be remembered stays charged until the process ends. */
    struct fg_value map = {.bytes = bytes, .link = handle, .member = 0, .kind = 0};
    if (code == CUDA_SUCCESS && process != NULL)
        fg_table_insert(&process->maps, address, &map);
    return code;
}

/* The mappings that lie one after the other in [address, end), taken out of the table. */
static int take_maps(struct fg_process *process, CUdeviceptr *address, CUdeviceptr end, struct fg_value *maps)
{
    int count = 0;
    while (count < UNMAP_BATCH && *address < end && fg_table_take(&process->maps, *address, &maps[count])) {
        *address += maps[count].bytes;
        count++;
    }
    return count;
}

CUresult fg_hook_cuMemUnmap(CUdeviceptr address, size_t bytes)
{
    struct fg_process *process = fg_process_attached();
    if (process == NULL)
        return FG_CALL(cuMemUnmap, address, bytes);
    struct fg_value maps[UNMAP_BATCH];
    uint64_t serials[UNMAP_BATCH];
    CUdeviceptr end = address + bytes;
    CUdeviceptr next = address;
    int count = take_maps(process, &next, end, maps);
    for (int index = 0; index < count; index++)
        serials[index] = drop_handle(process, maps[index].link);
    CUresult code = FG_CALL(cuMemUnmap, address, bytes);
    for (int index = 0; index < count; index++) {
        if (code == CUDA_SUCCESS) {
            fg_physical_drop(process, serials[index]);
            continue;
        }
        if (serials[index] != 0)
            restore_handle(process, maps[index].link, serials[index]);
        fg_table_insert(&process->maps, address, &maps[index]);
        address += maps[index].bytes;
    }
    /* A range of more mappings than fit above: the rest after the fact. */
    while (code == CUDA_SUCCESS && next < end && (count = take_maps(process, &next, end, maps)) > 0) {
        for (int index = 0; index < count; index++)
            fg_physical_drop(process, drop_handle(process, maps[index].link));
    }
    return code;
}

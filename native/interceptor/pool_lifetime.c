/*
 * pool_lifetime.c: cuMemPoolCreate, cuMemPoolTrimTo, cuMemPoolDestroy.
 */
#include "capture_mode.h"
#include "devices.h"
#include "pool_record.h"
#include "pools.h"
#include "real.h"

bool fg_location_is_host(int type)
{
    return type == CU_MEM_LOCATION_TYPE_HOST || type == CU_MEM_LOCATION_TYPE_HOST_NUMA ||
           type == CU_MEM_LOCATION_TYPE_HOST_NUMA_CURRENT;
}

CUresult fg_hook_cuMemPoolTrimTo(CUmemoryPool pool, size_t keep)
{
    struct fg_process *process = fg_process_attached();
    CUresult code = FG_CALL(cuMemPoolTrimTo, pool, keep);
    struct fg_pool *record = process == NULL ? NULL : fg_pool_find(process, pool);
    int mode = fg_capture_relax();
    if (code == CUDA_SUCCESS && record != NULL && record->group != NULL)
        fg_pool_settle(process, record);
    fg_capture_restore(mode);
    return code;
}

CUresult fg_hook_cuMemPoolCreate(CUmemoryPool *pool, const struct fg_pool_props *props)
{
    struct fg_process *process = fg_process();
    if (process == NULL)
        return CUDA_ERROR_SYSTEM_NOT_READY;
    CUmemoryPool result = NULL;
    CUresult code = FG_CALL(cuMemPoolCreate, pool == NULL ? NULL : &result, props);
    if (code != CUDA_SUCCESS)
        return code;
    struct fg_group *group = NULL;
    if (props->location.type == CU_MEM_LOCATION_TYPE_DEVICE)
        code = fg_group_of_device(process, props->location.id, &group);
    else if (props->location.type == CU_MEM_LOCATION_TYPE_DEVICE_LOCALITY_DOMAIN)
        code = fg_group_of_device(process, props->location.id & 0xff, &group);
    /* Managed memory without a home is charged where it is first used. A pool without a record could not be charged by
     * what it reserves. */
    bool homeless = group == NULL && !fg_location_is_host(props->location.type);
    if (code == CUDA_SUCCESS && !homeless && fg_pool_record(process, result, group) == NULL)
        code = CUDA_ERROR_OUT_OF_MEMORY;
    if (code == CUDA_SUCCESS)
        *pool = result;
    else
        FG_CALL(cuMemPoolDestroy, result);
    return code;
}

CUresult fg_hook_cuMemPoolDestroy(CUmemoryPool pool)
{
    struct fg_process *process = fg_process_attached();
    struct fg_pool *record = process == NULL ? NULL : fg_pool_find(process, pool);
    if (record == NULL)
        return FG_CALL(cuMemPoolDestroy, pool);
    /* In vain when a thread that lost its CPU is in charge. The record must then not keep the handle either, or the
     * driver would be asked about a pool that is gone; its charge goes with its last pointer. */
    bool in_charge = fg_pool_enter(record);
    int mode = fg_capture_relax();
    /* The blocks in which something is still allocated stay until the last of it is freed. */
    uint64_t kept = UINT64_MAX;
    if (in_charge)
        FG_CALL(cuMemPoolTrimTo, pool, 0);
    fg_pool_attribute(pool, CU_MEMPOOL_ATTR_RESERVED_MEM_CURRENT, &kept);
    fg_capture_restore(mode);
    __atomic_store_n(&record->handle, FG_POOL_GONE, __ATOMIC_SEQ_CST);
    CUresult code = FG_CALL(cuMemPoolDestroy, pool);
    uint64_t gone = FG_POOL_GONE;
    if (code != CUDA_SUCCESS)
        __atomic_compare_exchange_n(&record->handle, &gone, (uint64_t)(uintptr_t)pool, 0, __ATOMIC_SEQ_CST,
                                    __ATOMIC_SEQ_CST);
    else if (in_charge)
        fg_pool_gone(process, record, kept);
    mode = fg_capture_relax();
    if (in_charge)
        fg_pool_leave(process, record);
    else
        fg_pool_settle(process, record);
    fg_capture_restore(mode);
    return code;
}

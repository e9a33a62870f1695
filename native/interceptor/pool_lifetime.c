/*
 * pool_lifetime.c: cuMemPoolCreate, cuMemPoolTrimTo, cuMemPoolDestroy.
 */
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
    if (code == CUDA_SUCCESS && record != NULL && record->group != NULL)
        fg_pool_settle(process, record);
    return code;
}

CUresult fg_hook_cuMemPoolCreate(CUmemoryPool *pool, const struct fg_pool_props *props)
{
    struct fg_process *process = fg_process();
    if (process == NULL)
        return CUDA_ERROR_SYSTEM_NOT_READY;
    CUresult code = FG_CALL(cuMemPoolCreate, pool, props);
    if (code != CUDA_SUCCESS)
        return code;
    struct fg_group *group = NULL;
    if (props->location.type == CU_MEM_LOCATION_TYPE_DEVICE)
        code = fg_group_of_device(process, props->location.id, &group);
    else if (props->location.type == CU_MEM_LOCATION_TYPE_DEVICE_LOCALITY_DOMAIN)
        code = fg_group_of_device(process, props->location.id & 0xff, &group);
    else if (!fg_location_is_host(props->location.type))
        return CUDA_SUCCESS;           /* managed without a home: charged where it is first used */
    if (code == CUDA_SUCCESS)
        fg_pool_record(process, *pool, group);
    else
        FG_CALL(cuMemPoolDestroy, *pool);
    return code;
}

CUresult fg_hook_cuMemPoolDestroy(CUmemoryPool pool)
{
    struct fg_process *process = fg_process_attached();
    struct fg_pool *record = process == NULL ? NULL : fg_pool_find(process, pool);
    if (record == NULL || !fg_pool_enter(record))
        return FG_CALL(cuMemPoolDestroy, pool);
    uint64_t used = 0;
    fg_pool_attribute(pool, CU_MEMPOOL_ATTR_USED_MEM_CURRENT, &used);
    __atomic_store_n(&record->handle, FG_POOL_GONE, __ATOMIC_RELEASE);
    CUresult code = FG_CALL(cuMemPoolDestroy, pool);
    if (code == CUDA_SUCCESS)
        fg_pool_gone(process, record, used);
    else
        __atomic_store_n(&record->handle, (uint64_t)(uintptr_t)pool, __ATOMIC_RELEASE);
    fg_pool_leave(process, record);
    return code;
}

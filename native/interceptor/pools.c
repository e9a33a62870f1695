/*
 * pools.c: cuMemAllocAsync, cuMemAllocFromPoolAsync, and what makes a pool shrink.
 */
#include "pools.h"

#include "../limiter/amount.h"
#include "capture_mode.h"
#include "charge.h"
#include "devices.h"
#include "graph_memory.h"
#include "pool_record.h"
#include "real.h"

/* The block by which a pool grows. */
#define POOL_GROWTH (UINT64_C(32) << 20)

#define PER_THREAD_STREAM ((CUstream)2)

/* One call of any spelling. `per_thread` is what the suffix _ptsz means: stream 0 is the thread's own. */
struct request {
    uint64_t bytes;
    CUstream stream;
    CUmemoryPool pool;                 /* NULL: the current pool of the stream's device */
    bool per_thread;
};

static CUresult forward(const struct request *request, CUdeviceptr *address)
{
    size_t bytes = (size_t)request->bytes;
    if (request->pool == NULL)
        return request->per_thread ? FG_CALL(cuMemAllocAsync_ptsz, address, bytes, request->stream)
                                   : FG_CALL(cuMemAllocAsync, address, bytes, request->stream);
    return request->per_thread ? FG_CALL(cuMemAllocFromPoolAsync_ptsz, address, bytes, request->pool, request->stream)
                               : FG_CALL(cuMemAllocFromPoolAsync, address, bytes, request->pool, request->stream);
}

static bool lies_on_host(CUmemoryPool pool)
{
    /* Drivers before CUDA 13 do not know the attribute; there cuMemPoolCreate is the only way to such a pool. */
    int type = 0;
    if (FG_CALL(cuMemPoolGetAttribute, pool, CU_MEMPOOL_ATTR_LOCATION_TYPE, &type) != CUDA_SUCCESS)
        return false;
    return fg_location_is_host(type);
}

/* Where a pool lies that the program did not make: the default pool of any device may be used with any stream. Others
 * (managed memory without a home) are taken to lie where they are first used, which `*group` already says. */
static CUresult find_home(struct fg_process *process, CUmemoryPool pool, struct fg_group **group)
{
    int count = 0;
    CUmemoryPool of_device = NULL;
    CUresult code = FG_CALL(cuDeviceGetCount, &count);
    for (CUdevice device = 0; code == CUDA_SUCCESS && device < count; device++) {
        if (FG_CALL(cuDeviceGetDefaultMemPool, &of_device, device) == CUDA_SUCCESS && of_device == pool)
            return fg_group_of_device(process, device, group);
    }
    return code;
}

/* The record of the pool that `request` will use. */
static CUresult find_pool(struct fg_process *process, const struct request *request, struct fg_pool **record)
{
    CUdevice device = -1;
    struct fg_group *group = NULL;
    CUmemoryPool pool = request->pool;
    CUstream stream = request->stream == NULL && request->per_thread ? PER_THREAD_STREAM : request->stream;
    CUresult code = fg_device_of_stream(stream, &device);
    if (code == CUDA_SUCCESS)
        code = fg_group_of_device(process, device, &group);
    if (code == CUDA_SUCCESS && pool == NULL)
        code = FG_CALL(cuDeviceGetMemPool, &pool, device);
    if (code != CUDA_SUCCESS)
        return code;
    *record = fg_pool_find(process, pool);
    if (*record != NULL)
        return CUDA_SUCCESS;
    if (lies_on_host(pool))
        group = NULL;
    else
        code = find_home(process, pool, &group);
    if (code != CUDA_SUCCESS)
        return code;
    /* Charged by the size of each allocation, a pool would hold far more than its charge: rather nothing. */
    *record = fg_pool_record(process, pool, group);
    return *record == NULL ? CUDA_ERROR_OUT_OF_MEMORY : CUDA_SUCCESS;
}

static void remember(struct fg_process *process, struct fg_pool *record, CUdeviceptr address, uint64_t bytes)
{
    struct fg_value value = {
        .bytes = bytes, .link = (uint64_t)(record - process->pools), .member = 0, .kind = FG_POOL};
    __atomic_fetch_add(&record->pointers, 1, __ATOMIC_SEQ_CST);
    if (!fg_table_insert(&process->pointers, address, &value))
        __atomic_fetch_sub(&record->pointers, 1, __ATOMIC_SEQ_CST);
}

/* What the pool has reserved from the GPU; `otherwise` when it does not say. */
static uint64_t reserved_by(const struct fg_pool *record, uint64_t otherwise)
{
    uint64_t reserved;
    CUmemoryPool pool = (CUmemoryPool)(uintptr_t)record->handle;
    return fg_pool_attribute(pool, CU_MEMPOOL_ATTR_RESERVED_MEM_CURRENT, &reserved) ? reserved : otherwise;
}

/* With `growth` in flight: reserved by `charge`, or covered by the pool's headroom (`charge` is NULL). */
static CUresult allocate_covered(struct fg_process *process, const struct request *request, struct fg_pool *record,
                                 const struct fg_charge *charge, uint64_t growth, uint64_t ticket,
                                 CUdeviceptr *address)
{
    int mode = fg_capture_relax();
    uint64_t before = charge == NULL ? 0 : reserved_by(record, UINT64_MAX);
    if (charge != NULL)
        fg_pool_flying(record, growth, charge);
    fg_capture_restore(mode);
    CUresult code = forward(request, address);
    mode = fg_capture_relax();
    if (code == CUDA_SUCCESS)
        remember(process, record, *address, request->bytes);
    if (code == CUDA_SUCCESS && charge != NULL)
        fg_pool_grew(record, ticket, before, reserved_by(record, 0), request->bytes);
    fg_pool_landed(record, growth);
    fg_pool_settle(process, record);
    fg_capture_restore(mode);
    return code;
}

static CUresult allocate_in_pool(struct fg_process *process, const struct request *request, struct fg_pool *record,
                                 CUdeviceptr *address)
{
    uint64_t growth = fg_min(fg_round_up(request->bytes, POOL_GROWTH), FG_AMOUNT_MAX);
    struct fg_charge charge;
    uint64_t ticket;
    CUresult code = CUDA_SUCCESS;
    /* Free memory in the pool is no promise that it will not grow: it may lie in pieces, or belong to the order of
     * another stream. A limit that holds has to have room for the growth. */
    bool covered = fg_pool_begin(record, request->bytes, growth, &ticket);
    if (!covered)
        code = fg_charge_group_now(process, record->group, growth, FG_POOL, &charge);
    if (code == CUDA_SUCCESS)
        code = allocate_covered(process, request, record, covered ? NULL : &charge, growth, ticket, address);
    fg_pool_end(record);
    return code;
}

/* The driver did not say whether the stream captures: the legacy stream can not be used while a stream captures that waits
 * for it. Whether this call breaks that capture is the driver's to say. What it should allocate after all is charged as
 * memory that is already there. */
static CUresult allocate_unasked(struct fg_process *process, const struct request *request, CUdeviceptr *address)
{
    struct fg_pool *record = NULL;
    CUresult code = forward(request, address);
    int mode = fg_capture_relax();
    if (code == CUDA_SUCCESS && find_pool(process, request, &record) == CUDA_SUCCESS && record->group != NULL) {
        remember(process, record, *address, request->bytes);
        fg_pool_settle(process, record);
    }
    fg_capture_restore(mode);
    return code;
}

static CUresult allocate(const struct request *request, CUdeviceptr *address)
{
    int capturing = CU_STREAM_CAPTURE_STATUS_NONE;
    CUstream stream = request->stream == NULL && request->per_thread ? PER_THREAD_STREAM : request->stream;
    struct fg_process *process = fg_process();
    struct fg_pool *record = NULL;
    if (process == NULL)
        return CUDA_ERROR_SYSTEM_NOT_READY;
    CUresult code = FG_CALL(cuStreamIsCapturing, stream, &capturing);
    if (code != CUDA_SUCCESS)
        return allocate_unasked(process, request, address);
    /* A captured allocation becomes a node of a graph; nothing is allocated now. */
    if (capturing != CU_STREAM_CAPTURE_STATUS_NONE)
        return forward(request, address);
    int mode = fg_capture_relax();
    code = find_pool(process, request, &record);
    fg_capture_restore(mode);
    if (code != CUDA_SUCCESS)
        return code;
    CUdeviceptr result = 0;
    CUdeviceptr *target = address == NULL ? NULL : &result;
    if (record->group == NULL)
        code = forward(request, target);
    else if ((code = fg_wait_while_suspended(record->group)) == CUDA_SUCCESS)
        code = allocate_in_pool(process, request, record, target);
    if (code == CUDA_SUCCESS)
        *address = result;
    return code;
}

CUresult fg_hook_cuMemAllocAsync(CUdeviceptr *address, size_t bytes, CUstream stream)
{
    return allocate(&(struct request){.bytes = bytes, .stream = stream}, address);
}

CUresult fg_hook_cuMemAllocAsync_ptsz(CUdeviceptr *address, size_t bytes, CUstream stream)
{
    return allocate(&(struct request){.bytes = bytes, .stream = stream, .per_thread = true}, address);
}

CUresult fg_hook_cuMemAllocFromPoolAsync(CUdeviceptr *address, size_t bytes, CUmemoryPool pool, CUstream stream)
{
    if (pool == NULL)
        return FG_CALL(cuMemAllocFromPoolAsync, address, bytes, pool, stream);
    return allocate(&(struct request){.bytes = bytes, .stream = stream, .pool = pool}, address);
}

CUresult fg_hook_cuMemAllocFromPoolAsync_ptsz(CUdeviceptr *address, size_t bytes, CUmemoryPool pool, CUstream stream)
{
    if (pool == NULL)
        return FG_CALL(cuMemAllocFromPoolAsync_ptsz, address, bytes, pool, stream);
    return allocate(&(struct request){.bytes = bytes, .stream = stream, .pool = pool, .per_thread = true}, address);
}

void fg_pool_pointer_freed(struct fg_process *process, const struct fg_value *value)
{
    struct fg_pool *record = &process->pools[value->link];
    /* Asked once more: whoever destroys the pool meanwhile looks at the pointers after it has said so, so one of the
     * two sees both. */
    if (__atomic_fetch_sub(&record->pointers, 1, __ATOMIC_SEQ_CST) == 1 &&
        __atomic_load_n(&record->handle, __ATOMIC_SEQ_CST) == FG_POOL_GONE)
        fg_pool_settle(process, record);
}

static bool in_gpu_memory(const struct fg_pool *record)
{
    uint64_t handle = __atomic_load_n(&record->handle, __ATOMIC_ACQUIRE);
    return handle != 0 && handle != FG_POOL_GONE && record->group != NULL;
}

bool fg_pools_reclaim(struct fg_process *process, struct fg_group *group)
{
    bool asked = false;
    int mode = fg_capture_relax();
    uint32_t used = __atomic_load_n(&process->pools_used, __ATOMIC_ACQUIRE);
    for (uint32_t index = 0; index < used; index++) {
        struct fg_pool *record = &process->pools[index];
        if (!in_gpu_memory(record) || record->group != group || !fg_pool_enter(record))
            continue;
        if (fg_graph_memory_is(record))
            fg_graph_memory_trim(process, record);
        else if (in_gpu_memory(record))
            FG_CALL(cuMemPoolTrimTo, (CUmemoryPool)(uintptr_t)record->handle, 0);
        fg_pool_leave(process, record);
        asked = true;
    }
    fg_capture_restore(mode);
    return asked;
}

void fg_pools_settle(void)
{
    struct fg_process *process = fg_process_attached();
    if (process == NULL || __atomic_load_n(&process->pools_hold, __ATOMIC_ACQUIRE) == 0)
        return;
    /* A settlement that finds something charged sets it again. */
    __atomic_store_n(&process->pools_hold, 0, __ATOMIC_SEQ_CST);
    int mode = fg_capture_relax();
    uint32_t used = __atomic_load_n(&process->pools_used, __ATOMIC_ACQUIRE);
    for (uint32_t index = 0; index < used; index++) {
        if (in_gpu_memory(&process->pools[index]))
            fg_pool_settle(process, &process->pools[index]);
    }
    fg_capture_restore(mode);
}

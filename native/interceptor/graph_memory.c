/*
 * graph_memory.c: see graph_memory.h.
 *
 * What a launch may take from the GPU is less than what the graph needs: graphs of one stream never run at the same
 * time, and the driver puts the same pages behind them one after the other. So each stream that graphs ran on is
 * remembered with the largest need among them, as long as nothing was taken away: neither by a trim, nor by an
 * allocation that outlives its graph. Both begin a new epoch, in which only what happened since counts.
 */
#include "graph_memory.h"

#include "../limiter/amount.h"
#include "capture_mode.h"
#include "charge.h"
#include "devices.h"
#include "pool_record.h"
#include "pools.h"
#include "real.h"

/* The steps in which the driver's pools grow. */
#define GROWTH (UINT64_C(32) << 20)

/* No pointer, so no pool's handle. */
#define HANDLE UINT64_C(0xfff0000000000000)

static uint64_t handle_of(CUdevice device)
{
    return HANDLE | (uint32_t)device;
}

bool fg_graph_memory_handle(uint64_t handle)
{
    return handle >= HANDLE && handle < HANDLE + FG_DEVICES_MAX;
}

bool fg_graph_memory_is(const struct fg_pool *record)
{
    return fg_graph_memory_handle(__atomic_load_n(&record->handle, __ATOMIC_ACQUIRE));
}

bool fg_graph_memory_reserved(uint64_t handle, uint64_t *reserved)
{
    return fg_graph_memory_handle(handle) && FG_CALL(cuDeviceGetGraphMemAttribute, (CUdevice)(handle - HANDLE),
                                        CU_GRAPH_MEM_ATTR_RESERVED_MEM_CURRENT, reserved) == CUDA_SUCCESS;
}

struct fg_pool *fg_graph_memory_find(struct fg_process *process, CUdevice device)
{
    bool possible = device >= 0 && device < FG_DEVICES_MAX;
    return possible ? fg_pool_find(process, (CUmemoryPool)(uintptr_t)handle_of(device)) : NULL;
}

static struct fg_graph_streams *streams_of(struct fg_process *process, const struct fg_pool *record)
{
    return &process->graph_streams[__atomic_load_n(&record->handle, __ATOMIC_ACQUIRE) - HANDLE];
}

CUresult fg_graph_memory_trim(struct fg_process *process, const struct fg_pool *record)
{
    uint64_t handle = __atomic_load_n(&record->handle, __ATOMIC_ACQUIRE);
    uint64_t before = UINT64_MAX, after = 0;
    int mode = fg_capture_relax();
    fg_graph_memory_reserved(handle, &before);
    fg_capture_restore(mode);
    CUresult code = FG_CALL(cuDeviceGraphMemTrim, (CUdevice)(handle - HANDLE));
    mode = fg_capture_relax();
    fg_graph_memory_reserved(handle, &after);
    fg_capture_restore(mode);
    /* What runs keeps its memory, and a trim that takes nothing away changes nothing. */
    if (after < before)
        fg_graph_memory_shrank(process, record);
    return code;
}

void fg_graph_memory_shrank(struct fg_process *process, const struct fg_pool *record)
{
    if (fg_graph_memory_is(record))
        __atomic_fetch_add(&streams_of(process, record)->epoch, 1, __ATOMIC_SEQ_CST);
}

static struct fg_graph_stream *find_stream(struct fg_graph_streams *streams, uint64_t stream)
{
    for (uint32_t index = 0; index < FG_GRAPH_STREAMS_MAX; index++) {
        if (__atomic_load_n(&streams->of[index].stream, __ATOMIC_ACQUIRE) == stream)
            return &streams->of[index];
    }
    return NULL;
}

/* Pages that the stream has and that the part can have. */
static uint64_t had(struct fg_graph_streams *streams, const struct fg_graph_part *part, uint64_t stream)
{
    uint32_t epoch = __atomic_load_n(&streams->epoch, __ATOMIC_SEQ_CST);
    if (part->stream == stream && part->epoch == epoch)
        return part->pages;
    const struct fg_graph_stream *entry = find_stream(streams, stream);
    uint64_t pages = 0;
    if (entry != NULL && __atomic_load_n(&entry->epoch, __ATOMIC_ACQUIRE) == epoch)
        pages = __atomic_load_n(&entry->pages, __ATOMIC_ACQUIRE);
    /* What it left behind itself is there until it frees it, unless the program did. */
    bool untouched = part->epoch > __atomic_load_n(&streams->freed_epoch, __ATOMIC_SEQ_CST);
    if (part->stream == stream && part->ran && part->frees_itself && untouched)
        pages += part->lasting;
    return fg_min(pages, part->pages);
}

void fg_graph_pointer_freed(struct fg_process *process)
{
    for (uint32_t device = 0; device < FG_DEVICES_MAX; device++) {
        struct fg_graph_streams *streams = &process->graph_streams[device];
        uint32_t epoch = __atomic_load_n(&streams->epoch, __ATOMIC_SEQ_CST);
        if (epoch != 0)
            __atomic_store_n(&streams->freed_epoch, epoch, __ATOMIC_SEQ_CST);
    }
}

static void note(struct fg_graph_streams *streams, uint64_t stream, uint32_t epoch, uint32_t pages)
{
    struct fg_graph_stream *entry = find_stream(streams, stream);
    if (entry == NULL) {
        uint32_t turn = __atomic_fetch_add(&streams->turn, 1, __ATOMIC_RELAXED);
        entry = &streams->of[turn % FG_GRAPH_STREAMS_MAX];
        __atomic_store_n(&entry->pages, 0, __ATOMIC_RELEASE);
        __atomic_store_n(&entry->stream, stream, __ATOMIC_RELEASE);
    }
    if (__atomic_exchange_n(&entry->epoch, epoch, __ATOMIC_ACQ_REL) != epoch)
        __atomic_store_n(&entry->pages, pages, __ATOMIC_RELEASE);
    else if (__atomic_load_n(&entry->pages, __ATOMIC_ACQUIRE) < pages)
        __atomic_store_n(&entry->pages, pages, __ATOMIC_RELEASE);
}

static CUresult find_record(struct fg_process *process, CUdevice device, struct fg_pool **record)
{
    struct fg_group *group;
    if (device < 0 || device >= FG_DEVICES_MAX)
        return CUDA_ERROR_OUT_OF_MEMORY;
    *record = fg_graph_memory_find(process, device);
    if (*record != NULL)
        return CUDA_SUCCESS;
    CUresult code = fg_group_of_device(process, device, &group);
    if (code != CUDA_SUCCESS)
        return code;
    *record = fg_pool_record(process, (CUmemoryPool)(uintptr_t)handle_of(device), group);
    return *record == NULL ? CUDA_ERROR_OUT_OF_MEMORY : CUDA_SUCCESS;
}

/* One attempt: all of it is in flight before it is looked what is there already, so that whoever settles or trims
 * meanwhile leaves the charge of that. */
static bool try_to_reserve(struct fg_process *process, const struct fg_graph_part *part, uint64_t stream,
                           struct fg_pool *record, uint64_t flying)
{
    struct fg_charge charge;
    __atomic_fetch_add(&record->in_flight, flying, __ATOMIC_SEQ_CST);
    uint64_t missing = part->pages - had(streams_of(process, record), part, stream);
    if (missing == 0)
        return true;
    uint64_t growth = fg_min(fg_round_up(missing * FG_GRAPH_PAGE, GROWTH), FG_AMOUNT_MAX);
    if (fg_group_reserve(record->group, growth, FG_POOL, &charge)) {
        fg_pool_flying(record, 0, &charge);
        return true;
    }
    fg_pool_landed(record, flying);
    return false;
}

CUresult fg_graph_reserve(struct fg_process *process, const struct fg_graph_part *part, uint64_t stream,
                          struct fg_graph_hold *hold)
{
    struct fg_pool *record = NULL;
    int mode = fg_capture_relax();
    CUresult code = find_record(process, part->device, &record);
    if (code == CUDA_SUCCESS)
        code = fg_wait_while_suspended(record->group);
    hold->record = record;
    hold->flying = fg_min(fg_round_up(part->pages * FG_GRAPH_PAGE, GROWTH), FG_AMOUNT_MAX);
    if (code == CUDA_SUCCESS && !try_to_reserve(process, part, stream, record, hold->flying)) {
        fg_pools_reclaim(process, record->group);
        if (!try_to_reserve(process, part, stream, record, hold->flying)) {
            fg_group_record_refusal(record->group, hold->flying);
            code = CUDA_ERROR_OUT_OF_MEMORY;
        }
    }
    fg_capture_restore(mode);
    return code;
}

void fg_graph_mapped(struct fg_process *process, struct fg_graph_part *part, uint64_t stream, bool mapped, bool launched,
                     const struct fg_graph_hold *hold)
{
    struct fg_graph_streams *streams = streams_of(process, hold->record);
    uint32_t epoch = __atomic_load_n(&streams->epoch, __ATOMIC_SEQ_CST);
    if (mapped && launched && part->lasting != 0)
        epoch = __atomic_add_fetch(&streams->epoch, 1, __ATOMIC_SEQ_CST);
    if (mapped) {
        note(streams, stream, epoch, part->pages - part->lasting);
        part->stream = stream;
        part->epoch = epoch;
        part->ran = launched;
    }
    int mode = fg_capture_relax();
    fg_pool_landed(hold->record, hold->flying);
    fg_pool_settle(process, hold->record);
    fg_capture_restore(mode);
}

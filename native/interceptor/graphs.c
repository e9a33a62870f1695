/*
 * graphs.c: executable graphs: what they need is found out when they are made, and reserved when they are uploaded or
 * launched, which is when the driver puts memory behind their addresses.
 */
#include <errno.h>

#include "capture_mode.h"
#include "charge.h"
#include "graph_memory.h"
#include "pool_record.h"
#include "real.h"

#define PER_THREAD_STREAM 2u

/* process->graphs: executable graph + number of the part -> the part, as a value of the table has room for it. */
static struct fg_value packed(const struct fg_graph_part *part)
{
    return (struct fg_value){.bytes = (uint64_t)part->pages << 32 | part->lasting,
                             .link = part->stream,
                             .member = (uint32_t)part->device << 2 | (uint32_t)part->ran << 1 | part->frees_itself,
                             .kind = part->epoch};
}

static struct fg_graph_part unpacked(const struct fg_value *value)
{
    return (struct fg_graph_part){.device = (CUdevice)(value->member >> 2),
                                  .pages = (uint32_t)(value->bytes >> 32),
                                  .lasting = (uint32_t)value->bytes,
                                  .frees_itself = (value->member & 1) != 0,
                                  .ran = (value->member & 2) != 0,
                                  .stream = value->link,
                                  .epoch = value->kind};
}

static uint64_t key_of(CUgraphExec exec, uint32_t index)
{
    return (uint64_t)(uintptr_t)exec + index;
}

/* A name for the stream. What a thread has as its default stream is the thread's, and errno lies where nothing of
 * another thread does. */
static uint64_t name_of(CUstream stream, bool per_thread)
{
    if ((uintptr_t)stream == PER_THREAD_STREAM || (stream == NULL && per_thread))
        return (uint64_t)(uintptr_t)&errno;
    return (uintptr_t)stream < PER_THREAD_STREAM ? 1 : (uint64_t)(uintptr_t)stream;
}

/* ---- making them ---- */

/* What one call of any spelling is about. */
struct making {
    struct fg_process *process;
    struct fg_graph_part parts[FG_GRAPH_DEVICES_MAX];
    struct fg_graph_hold holds[FG_GRAPH_DEVICES_MAX];
    uint32_t count;
    uint32_t held;                     /* parts [0, held) are reserved: the call uploads as well */
    uint64_t stream;
};

static void end_upload(struct making *making, bool mapped)
{
    for (uint32_t index = 0; index < making->held; index++)
        fg_graph_mapped(making->process, &making->parts[index], making->stream, mapped, false, &making->holds[index]);
}

static CUresult begin(struct making *making, CUgraph graph, uint64_t flags, uint64_t upload_stream)
{
    struct fg_graph_need need;
    making->held = making->count = 0;
    making->stream = upload_stream;
    making->process = fg_process_attached();
    int mode = fg_capture_relax();
    CUresult code = fg_graph_need(graph, &need);
    fg_capture_restore(mode);
    if (code != CUDA_SUCCESS)
        return code;
    if (need.count != 0 && (making->process = fg_process()) == NULL)
        return CUDA_ERROR_SYSTEM_NOT_READY;
    for (; making->count < need.count; making->count++)
        making->parts[making->count] =
            (struct fg_graph_part){.device = need.on[making->count].device,
                                   .pages = need.on[making->count].pages,
                                   .lasting = need.on[making->count].lasting,
                                   .frees_itself = (flags & CUDA_GRAPH_INSTANTIATE_FLAG_AUTO_FREE_ON_LAUNCH) != 0};
    while ((flags & CUDA_GRAPH_INSTANTIATE_FLAG_UPLOAD) != 0 && code == CUDA_SUCCESS && making->held < making->count) {
        code = fg_graph_reserve(making->process, &making->parts[making->held], making->stream,
                                &making->holds[making->held]);
        making->held += code == CUDA_SUCCESS;
    }
    if (code != CUDA_SUCCESS)
        end_upload(making, false);
    return code;
}

static CUresult end(struct making *making, CUresult code, CUgraphExec *target, CUgraphExec made)
{
    struct fg_value value;
    end_upload(making, code == CUDA_SUCCESS);
    /* An executable graph that is gone may have had the same handle. */
    for (uint32_t index = 0; code == CUDA_SUCCESS && making->process != NULL && index < FG_GRAPH_DEVICES_MAX; index++)
        fg_table_take(&making->process->graphs, key_of(made, index), &value);
    for (uint32_t index = 0; code == CUDA_SUCCESS && index < making->count; index++) {
        value = packed(&making->parts[index]);
        if (fg_table_insert(&making->process->graphs, key_of(made, index), &value))
            continue;
        FG_CALL(cuGraphExecDestroy, made);
        code = CUDA_ERROR_OUT_OF_MEMORY;
    }
    if (code == CUDA_SUCCESS)
        *target = made;
    return code;
}

#define MAKING_HOOK(name, parameters, graph, flags, stream, ...) \
    CUresult fg_hook_##name parameters \
    { \
        struct making making; \
        CUgraphExec made = NULL; \
        CUgraphExec *result = exec == NULL ? NULL : &made; \
        CUresult code = begin(&making, graph, flags, stream); \
        if (code != CUDA_SUCCESS) \
            return code; \
        code = FG_CALL(name, result, __VA_ARGS__); \
        return end(&making, code, exec, made); \
    }

MAKING_HOOK(cuGraphInstantiate,
            (CUgraphExec *exec, CUgraph graph, CUgraphNode *error_node, char *log, size_t log_bytes), graph, 0, 0, graph,
            error_node, log, log_bytes)
MAKING_HOOK(cuGraphInstantiate_v2,
            (CUgraphExec *exec, CUgraph graph, CUgraphNode *error_node, char *log, size_t log_bytes), graph, 0, 0, graph,
            error_node, log, log_bytes)
MAKING_HOOK(cuGraphInstantiateWithFlags, (CUgraphExec *exec, CUgraph graph, unsigned long long flags), graph, flags, 0,
            graph, flags)
MAKING_HOOK(cuGraphInstantiateWithParams,
            (CUgraphExec *exec, CUgraph graph, struct fg_graph_instantiate_params *params),
            params == NULL ? NULL : graph, params == NULL ? 0 : params->flags,
            params == NULL ? 0 : name_of(params->upload_stream, false), graph, params)
MAKING_HOOK(cuGraphInstantiateWithParams_ptsz,
            (CUgraphExec *exec, CUgraph graph, struct fg_graph_instantiate_params *params),
            params == NULL ? NULL : graph, params == NULL ? 0 : params->flags,
            params == NULL ? 0 : name_of(params->upload_stream, true), graph, params)

/* ---- running them ---- */

typedef CUresult run_t(CUgraphExec exec, CUstream stream);

static CUresult run(run_t *call, CUgraphExec exec, CUstream stream, bool per_thread, bool launches)
{
    struct fg_process *process = fg_process_attached();
    struct fg_value *values[FG_GRAPH_DEVICES_MAX];
    struct fg_graph_part parts[FG_GRAPH_DEVICES_MAX];
    struct fg_graph_hold holds[FG_GRAPH_DEVICES_MAX];
    uint32_t held = 0;
    CUresult code = CUDA_SUCCESS;
    uint64_t name = name_of(stream, per_thread);
    while (process != NULL && code == CUDA_SUCCESS && held < FG_GRAPH_DEVICES_MAX &&
           (values[held] = fg_table_find(&process->graphs, key_of(exec, held))) != NULL) {
        parts[held] = unpacked(values[held]);
        code = fg_graph_reserve(process, &parts[held], name, &holds[held]);
        held += code == CUDA_SUCCESS;
    }
    if (code == CUDA_SUCCESS)
        code = call(exec, stream);
    for (uint32_t index = 0; index < held; index++) {
        fg_graph_mapped(process, &parts[index], name, code == CUDA_SUCCESS, launches, &holds[index]);
        *values[index] = packed(&parts[index]);
    }
    return code;
}

#define RUN_HOOK(name, per_thread, launches) \
    static CUresult call_##name(CUgraphExec exec, CUstream stream) { return FG_CALL(name, exec, stream); } \
    CUresult fg_hook_##name(CUgraphExec exec, CUstream stream) \
    { \
        return run(call_##name, exec, stream, per_thread, launches); \
    }

RUN_HOOK(cuGraphLaunch, false, true)
RUN_HOOK(cuGraphLaunch_ptsz, true, true)
RUN_HOOK(cuGraphUpload, false, false)
RUN_HOOK(cuGraphUpload_ptsz, true, false)

CUresult fg_hook_cuDeviceGraphMemTrim(CUdevice device)
{
    struct fg_process *process = fg_process_attached();
    struct fg_pool *record = process == NULL ? NULL : fg_graph_memory_find(process, device);
    if (record == NULL)
        return FG_CALL(cuDeviceGraphMemTrim, device);
    CUresult code = fg_graph_memory_trim(process, record);
    int mode = fg_capture_relax();
    fg_pool_settle(process, record);
    fg_capture_restore(mode);
    return code;
}

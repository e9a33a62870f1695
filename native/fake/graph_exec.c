/* graph_exec.c: executable graphs: instantiating, uploading, launching and updating them. */
#include "capture.h"

#include <stdlib.h>
#include <string.h>

#define AUTO_FREE 1u
#define UPLOAD 2u
#define DEVICE_LAUNCH 4u
#define NODE_PRIORITY 8u

enum { INSTANTIATE_OK = 0, INSTANTIATE_ERROR = 1, INSTANTIATE_INVALID_STRUCTURE = 2 };
enum { UPDATE_OK = 0, UPDATE_ERROR = 1, UPDATE_TOPOLOGY = 2, UPDATE_TYPE = 3, UPDATE_NOT_SUPPORTED = 6 };

typedef struct { uint64_t flags; CUstream stream; CUgraphNode error_node; int result; } CUinstantiateParams;
typedef struct { int result; CUgraphNode error_node, error_from; } CUupdateResult;

struct fake_exec {
    CUgraphExec next;
    struct work *steps;                   /* in order, those of child graphs among them */
    size_t count;
    uint64_t flags;
    CUgraph source;                       /* a copy, unless there are memory nodes: for a launch that is captured */
    struct graph_memory *memory;
    int running;
    bool destroyed;
};

static CUgraphExec execs;

static bool known(CUgraphExec exec)
{
    CUgraphExec other = execs;
    while (other != NULL && other != exec) {
        other = other->next;
    }
    return other != NULL && !other->destroyed;
}

static void dispose(CUgraphExec exec)
{
    CUgraphExec *link = &execs;
    while (*link != exec) {
        link = &(*link)->next;
    }
    *link = exec->next;
    if (exec->source != NULL) {
        graph_destroy(exec->source);
    }
    graph_memory_associate(exec->memory, false);
    graph_memory_release(exec->memory);
    free(exec->steps);
    free(exec);
}

static CUresult flatten(CUgraphExec exec, CUgraph graph)
{
    CUgraphNode *order;
    size_t count;
    TRY(graph_order(graph, &order, &count));
    CUresult rc = CUDA_SUCCESS;
    for (size_t i = 0; rc == CUDA_SUCCESS && i < count; i++) {
        if (order[i]->work.type == NODE_CHILD) {
            rc = flatten(exec, order[i]->work.child);
            continue;
        }
        struct work *moved = realloc(exec->steps, (exec->count + 1) * sizeof *moved);
        if (moved == NULL) {
            rc = CUDA_ERROR_OUT_OF_MEMORY;
            break;
        }
        exec->steps = moved;
        moved[exec->count++] = order[i]->work;
    }
    free(order);
    return rc;
}

static CUresult upload(CUgraphExec exec, CUstream stream)
{
    int device;
    TRY(stream_device(stream, &device));
    return exec->memory == NULL ? CUDA_SUCCESS : graph_memory_map(exec->memory, stream_key(stream));
}

static CUresult instantiate(CUgraphExec *out, CUgraph graph, uint64_t flags, uint64_t allowed, CUstream stream)
{
    NOT_NULL(out);
    REQUIRE(graph_known(graph) && !graph->owned && (flags & ~allowed) == 0, CUDA_ERROR_INVALID_VALUE);
    REQUIRE((flags & DEVICE_LAUNCH) == 0, CUDA_ERROR_NOT_SUPPORTED);
    REQUIRE(!graph_memory_associated(graph->memory), CUDA_ERROR_INVALID_VALUE);
    CUgraphExec exec = calloc(1, sizeof *exec);
    REQUIRE(exec != NULL, CUDA_ERROR_OUT_OF_MEMORY);
    *exec = (struct fake_exec){ .next = execs, .flags = flags, .memory = graph->memory };
    execs = exec;
    graph_memory_retain(exec->memory);
    graph_memory_associate(exec->memory, true);
    CUresult rc = flatten(exec, graph);
    if (rc == CUDA_SUCCESS && !graph_has_memory_nodes(graph)) {
        rc = graph_clone(&exec->source, graph);
    }
    if (rc == CUDA_SUCCESS && (flags & UPLOAD) != 0) {
        rc = upload(exec, stream);
    }
    if (rc != CUDA_SUCCESS) {
        dispose(exec);
        return rc;
    }
    *out = exec;
    return CUDA_SUCCESS;
}

static CUresult instantiate_plain(CUgraphExec *out, CUgraph graph, CUgraphNode *error, char *text, size_t size)
{
    CUresult rc = instantiate(out, graph, 0, 0, NULL);
    if (error != NULL) {
        *error = NULL;
    }
    if (text != NULL && size > 0) {
        *text = '\0';
    }
    return rc;
}

static CUresult instantiate_with(CUgraphExec *out, CUgraph graph, CUinstantiateParams *params)
{
    NOT_NULL(params);
    CUgraphNode *order = NULL;
    size_t count;
    CUresult rc = instantiate(out, graph, params->flags, AUTO_FREE | UPLOAD | DEVICE_LAUNCH | NODE_PRIORITY,
                              params->stream);
    bool cycle = rc != CUDA_SUCCESS && graph_known(graph) && graph_order(graph, &order, &count) != CUDA_SUCCESS;
    free(order);
    params->error_node = cycle ? graph->nodes : NULL;
    params->result = rc == CUDA_SUCCESS ? INSTANTIATE_OK : cycle ? INSTANTIATE_INVALID_STRUCTURE : INSTANTIATE_ERROR;
    return rc;
}

static bool allocates(CUgraphExec exec, CUdeviceptr address)
{
    for (size_t i = 0; i < exec->count; i++) {
        if (exec->steps[i].type == NODE_ALLOC && exec->steps[i].alloc.address == address) {
            return true;
        }
    }
    return false;
}

static bool lives(CUdeviceptr address)
{
    const struct range *range = range_at(address);
    return range != NULL && range->kind == RANGE_GRAPH && range->start == address;
}

/* Without the lock, as launches of host functions are: they may wait for a thread that calls the driver. */
static void run_host(const CUhostNode *host)
{
    driver_unlock();
    host->function(host->data);
    driver_relock();
}

static CUresult run(CUgraphExec exec, struct work *step)
{
    switch (step->type) {
    case NODE_COPY:
        return copy_run(&step->copy);
    case NODE_FILL:
        return fill_run(&step->fill);
    case NODE_RECORD:
        return event_run_record(step->event);
    case NODE_ALLOC:
        return graph_memory_begin(exec->memory, step->alloc.address, step->alloc.size);
    case NODE_FREE:
        REQUIRE(lives(step->address), CUDA_ERROR_INVALID_VALUE);
        return memory_release(range_at(step->address));
    case NODE_HOST:
        run_host(&step->host);
        return CUDA_SUCCESS;
    default:
        return CUDA_SUCCESS;
    }
}

/* What an earlier launch left behind is in the way, unless the graph frees it itself; so is what another graph's node
 * frees and is not there. */
static CUresult check_allocations(CUgraphExec exec)
{
    if (graph_memory_live(exec->memory)) {
        REQUIRE((exec->flags & AUTO_FREE) != 0, CUDA_ERROR_INVALID_VALUE);
        graph_memory_free_all(exec->memory);
    }
    for (size_t i = 0; i < exec->count; i++) {
        bool own = exec->steps[i].type != NODE_FREE || allocates(exec, exec->steps[i].address);
        REQUIRE(own || lives(exec->steps[i].address), CUDA_ERROR_INVALID_VALUE);
    }
    return CUDA_SUCCESS;
}

static CUresult capture_launch(CUgraphExec exec, CUstream stream, bool *captured)
{
    if (exec->source == NULL) {
        *captured = false;
        return capture_refuse(stream);
    }
    struct work work = { .type = NODE_CHILD, .child = exec->source };
    return capture_work(stream, &work, captured);
}

static CUresult launch(CUgraphExec exec, CUstream stream)
{
    bool captured;
    int device;
    REQUIRE(known(exec), CUDA_ERROR_INVALID_VALUE);
    TRY(stream_device(stream, &device));
    TRY(capture_launch(exec, stream, &captured));
    if (captured) {
        return CUDA_SUCCESS;
    }
    TRY(check_allocations(exec));
    TRY(upload(exec, stream));
    CUresult rc = CUDA_SUCCESS;
    exec->running++;
    for (size_t i = 0; rc == CUDA_SUCCESS && i < exec->count; i++) {
        rc = run(exec, &exec->steps[i]);
    }
    if (--exec->running == 0 && exec->destroyed) {
        dispose(exec);
    }
    return rc;
}

static CUresult destroy(CUgraphExec exec)
{
    REQUIRE(known(exec), CUDA_ERROR_INVALID_VALUE);
    exec->destroyed = true;
    if (exec->running == 0) {
        dispose(exec);
    }
    return CUDA_SUCCESS;
}

static CUresult get_flags(CUgraphExec exec, uint64_t *flags)
{
    NOT_NULL(flags);
    REQUIRE(known(exec), CUDA_ERROR_INVALID_VALUE);
    *flags = exec->flags;
    return CUDA_SUCCESS;
}

/* Parameters may change, the nodes may not; nothing that allocates or frees can be updated. */
static CUresult compare(CUgraphExec exec, CUgraph graph, CUgraphExec next, int *result)
{
    *result = UPDATE_ERROR;
    REQUIRE(known(exec) && graph_known(graph), CUDA_ERROR_INVALID_VALUE);
    *result = UPDATE_NOT_SUPPORTED;
    REQUIRE(exec->source != NULL && !graph_has_memory_nodes(graph), CUDA_ERROR_GRAPH_EXEC_UPDATE_FAILURE);
    TRY(flatten(next, graph));
    *result = UPDATE_TOPOLOGY;
    REQUIRE(next->count == exec->count, CUDA_ERROR_GRAPH_EXEC_UPDATE_FAILURE);
    *result = UPDATE_TYPE;
    for (size_t i = 0; i < next->count; i++) {
        REQUIRE(next->steps[i].type == exec->steps[i].type, CUDA_ERROR_GRAPH_EXEC_UPDATE_FAILURE);
    }
    *result = UPDATE_OK;
    return CUDA_SUCCESS;
}

static CUresult update(CUgraphExec exec, CUgraph graph, int *result)
{
    struct fake_exec next = { 0 };
    CUgraph copy = NULL;
    int found;
    CUresult rc = compare(exec, graph, &next, &found);
    if (rc == CUDA_SUCCESS) {
        rc = graph_clone(&copy, graph);
    }
    if (rc == CUDA_SUCCESS) {
        graph_destroy(exec->source);
        exec->source = copy;
        memcpy(exec->steps, next.steps, exec->count * sizeof *exec->steps);
    }
    free(next.steps);
    if (result != NULL) {
        *result = found;
    }
    return rc;
}

static CUresult update_v2(CUgraphExec exec, CUgraph graph, CUupdateResult *result)
{
    NOT_NULL(result);
    *result = (CUupdateResult){ 0 };
    return update(exec, graph, &result->result);
}

static CUresult update_v1(CUgraphExec exec, CUgraph graph, CUgraphNode *error, int *result)
{
    if (error != NULL) {
        *error = NULL;
    }
    return update(exec, graph, result);
}

CUAPI CUresult cuGraphInstantiate(CUgraphExec *out, CUgraph graph, CUgraphNode *error, char *text, size_t size)
{
    DRIVER_CALL(instantiate_plain(out, graph, error, text, size));
}
CUAPI CUresult cuGraphInstantiate_v2(CUgraphExec *out, CUgraph graph, CUgraphNode *error, char *text, size_t size)
{
    DRIVER_CALL(instantiate_plain(out, graph, error, text, size));
}
CUAPI CUresult cuGraphInstantiateWithFlags(CUgraphExec *out, CUgraph graph, unsigned long long flags)
{
    DRIVER_CALL(instantiate(out, graph, flags, AUTO_FREE | DEVICE_LAUNCH | NODE_PRIORITY, NULL));
}
CUAPI CUresult cuGraphExecDestroy(CUgraphExec exec) { DRIVER_CALL(destroy(exec)); }
CUAPI CUresult cuGraphExecGetFlags(CUgraphExec exec, uint64_t *flags) { DRIVER_CALL(get_flags(exec, flags)); }
CUAPI CUresult cuGraphExecUpdate(CUgraphExec exec, CUgraph graph, CUgraphNode *error, int *result)
{
    DRIVER_CALL(update_v1(exec, graph, error, result));
}
CUAPI CUresult cuGraphExecUpdate_v2(CUgraphExec exec, CUgraph graph, CUupdateResult *result)
{
    DRIVER_CALL(update_v2(exec, graph, result));
}

STREAM_API(cuGraphInstantiateWithParams, _ptsz, (CUgraphExec *out, CUgraph graph, CUinstantiateParams *params),
           (out, graph, params))
{
    return instantiate_with(out, graph, params);
}

STREAM_API(cuGraphUpload, _ptsz, (CUgraphExec exec, CUstream stream), (exec, stream))
{
    REQUIRE(known(exec), CUDA_ERROR_INVALID_VALUE);
    return upload(exec, stream);
}

STREAM_API(cuGraphLaunch, _ptsz, (CUgraphExec exec, CUstream stream), (exec, stream))
{
    return launch(exec, stream);
}

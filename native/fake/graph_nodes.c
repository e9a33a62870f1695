/* graph_nodes.c: making the nodes of a graph, each kind by its own function or by cuGraphAddNode, and their parameters. */
#include "graph.h"

#include <stdlib.h>
#include <string.h>

/* CUgraphNodeParams, with the kinds that the model has. */
typedef struct {
    int type;
    int reserved[3];
    union {
        long long padding[29];
        struct { int flags, reserved; CUcontext context; CUmemcpy3D copy; } copy;
        struct { CUfillNode fill; CUcontext context; } fill;
        CUhostNode host;
        struct { CUgraph graph; int ownership; } child;
        CUevent event;
        CUallocNode alloc;
        CUdeviceptr address;
    };
    long long reserved_end;
} CUnodeParams;
_Static_assert(sizeof(CUnodeParams) == 256, "as cuda.h has it");
_Static_assert(sizeof(CUallocNode) == 120, "as cuda.h has it");

static CUresult check_dependencies(CUgraph graph, CUgraphNode const *dependencies, size_t count)
{
    REQUIRE(count == 0 || dependencies != NULL, CUDA_ERROR_INVALID_VALUE);
    for (size_t i = 0; i < count; i++) {
        REQUIRE(node_known(graph, dependencies[i]), CUDA_ERROR_INVALID_VALUE);
        for (size_t j = 0; j < i; j++) {
            REQUIRE(dependencies[i] != dependencies[j], CUDA_ERROR_INVALID_VALUE);
        }
    }
    return CUDA_SUCCESS;
}

static CUresult prepare_alloc(CUgraphNode node)
{
    CUallocNode *alloc = &node->work.alloc;
    REQUIRE(alloc->size > 0 && alloc->properties.alloc_type == 1, CUDA_ERROR_INVALID_VALUE);
    REQUIRE(alloc->properties.handle_types == 0, CUDA_ERROR_INVALID_VALUE);
    REQUIRE(alloc->properties.location.type == CU_LOCATION_DEVICE, CUDA_ERROR_NOT_SUPPORTED);
    REQUIRE(device_at(alloc->properties.location.id) != NULL, CUDA_ERROR_INVALID_VALUE);
    return graph_memory_place(node->graph, node, &alloc->address);
}

/* Freed may be what an allocation node of this graph or another one hands out, once. */
static CUresult prepare_free(CUgraphNode node)
{
    CUdeviceptr address = node->work.address;
    CUgraphNode alloc = graph_allocation_of(address, node->graph);
    if (alloc == NULL) {                  /* the graph may be gone and its allocation live on */
        const struct range *range = range_at(address);
        REQUIRE(range != NULL && range->kind == RANGE_GRAPH && range->start == address, CUDA_ERROR_INVALID_VALUE);
    } else {
        REQUIRE(!alloc->freed, CUDA_ERROR_INVALID_VALUE);
        alloc->freed = true;
        if (alloc->graph == node->graph) {
            graph_memory_vacate(node->graph->memory, address, node);
        }
    }
    node->graph->frees = true;
    return CUDA_SUCCESS;
}

static CUresult prepare(CUgraphNode node)
{
    struct work *work = &node->work;
    switch (work->type) {
    case NODE_ALLOC:
        return prepare_alloc(node);
    case NODE_FREE:
        return prepare_free(node);
    case NODE_HOST:
        NOT_NULL(work->host.function);
        return CUDA_SUCCESS;
    case NODE_FILL:
        REQUIRE(work->fill.element == 1 || work->fill.element == 2 || work->fill.element == 4, CUDA_ERROR_INVALID_VALUE);
        REQUIRE(work->fill.width > 0 && work->fill.height > 0, CUDA_ERROR_INVALID_VALUE);
        return CUDA_SUCCESS;
    case NODE_RECORD:
    case NODE_WAIT:
        REQUIRE(event_exists(work->event), CUDA_ERROR_INVALID_VALUE);
        return CUDA_SUCCESS;
    case NODE_CHILD: {
        REQUIRE(graph_known(work->child) && work->child != node->graph, CUDA_ERROR_INVALID_VALUE);
        CUgraph own;
        TRY(graph_clone(&own, work->child));
        own->owned = true;
        work->child = own;
        return CUDA_SUCCESS;
    }
    case NODE_COPY:
    case NODE_EMPTY:
        return CUDA_SUCCESS;
    default:
        return CUDA_ERROR_NOT_SUPPORTED;
    }
}

CUresult graph_add(CUgraphNode *out, CUgraph graph, CUgraphNode const *dependencies, size_t count, struct work *work)
{
    NOT_NULL(out);
    REQUIRE(graph_known(graph), CUDA_ERROR_INVALID_VALUE);
    TRY(check_dependencies(graph, dependencies, count));
    CUgraphNode node = calloc(1, sizeof *node);
    CUgraphNode *copy = calloc(count + 1, sizeof *copy);
    CUresult rc = node != NULL && copy != NULL ? CUDA_SUCCESS : CUDA_ERROR_OUT_OF_MEMORY;
    if (rc == CUDA_SUCCESS) {
        *node = (struct fake_node){ .graph = graph, .work = *work, .dependencies = copy, .dependency_count = count };
        memcpy(copy, count != 0 ? dependencies : copy, count * sizeof *copy);
        rc = prepare(node);
    }
    if (rc != CUDA_SUCCESS) {
        free(copy);
        free(node);
        return rc;
    }
    CUgraphNode *link = &graph->nodes;
    while (*link != NULL) {
        link = &(*link)->next;
    }
    *link = node;
    *work = node->work;
    *out = node;
    return CUDA_SUCCESS;
}

typedef const CUgraphNode *nodes_in;

static CUresult add_copy(CUgraphNode *out, CUgraph graph, nodes_in before, size_t count, const CUmemcpy3D *copy)
{
    NOT_NULL(copy);
    struct work work = { .type = NODE_COPY, .copy = *copy };
    return graph_add(out, graph, before, count, &work);
}

static CUresult add_fill(CUgraphNode *out, CUgraph graph, nodes_in before, size_t count, const CUfillNode *fill)
{
    NOT_NULL(fill);
    struct work work = { .type = NODE_FILL, .fill = *fill };
    return graph_add(out, graph, before, count, &work);
}

static CUresult add_host(CUgraphNode *out, CUgraph graph, nodes_in before, size_t count, const CUhostNode *host)
{
    NOT_NULL(host);
    struct work work = { .type = NODE_HOST, .host = *host };
    return graph_add(out, graph, before, count, &work);
}

static CUresult add_child(CUgraphNode *out, CUgraph graph, nodes_in before, size_t count, CUgraph child)
{
    struct work work = { .type = NODE_CHILD, .child = child };
    return graph_add(out, graph, before, count, &work);
}

static CUresult add_event(CUgraphNode *out, CUgraph graph, nodes_in before, size_t count, int type, CUevent event)
{
    struct work work = { .type = type, .event = event };
    return graph_add(out, graph, before, count, &work);
}

static CUresult add_alloc(CUgraphNode *out, CUgraph graph, nodes_in before, size_t count, CUallocNode *alloc)
{
    NOT_NULL(alloc);
    struct work work = { .type = NODE_ALLOC, .alloc = *alloc };
    TRY(graph_add(out, graph, before, count, &work));
    alloc->address = work.alloc.address;
    return CUDA_SUCCESS;
}

static CUresult add_free(CUgraphNode *out, CUgraph graph, nodes_in before, size_t count, CUdeviceptr address)
{
    struct work work = { .type = NODE_FREE, .address = address };
    return graph_add(out, graph, before, count, &work);
}

static CUresult add_any(CUgraphNode *out, CUgraph graph, nodes_in before, size_t count, CUnodeParams *params)
{
    NOT_NULL(params);
    switch (params->type) {
    case NODE_COPY:
        return add_copy(out, graph, before, count, &params->copy.copy);
    case NODE_FILL:
        return add_fill(out, graph, before, count, &params->fill.fill);
    case NODE_HOST:
        return add_host(out, graph, before, count, &params->host);
    case NODE_CHILD:
        REQUIRE(params->child.ownership == 0, CUDA_ERROR_NOT_SUPPORTED);
        return add_child(out, graph, before, count, params->child.graph);
    case NODE_EMPTY:
        return graph_add(out, graph, before, count, &(struct work){ .type = NODE_EMPTY });
    case NODE_WAIT:
    case NODE_RECORD:
        return add_event(out, graph, before, count, params->type, params->event);
    case NODE_ALLOC:
        return add_alloc(out, graph, before, count, &params->alloc);
    case NODE_FREE:
        return add_free(out, graph, before, count, params->address);
    default:
        return CUDA_ERROR_NOT_SUPPORTED;
    }
}

/* The work of a node of that type. */
static CUresult work_of(CUgraphNode node, int type, struct work **work)
{
    REQUIRE(node_known(NULL, node) && node->work.type == type, CUDA_ERROR_INVALID_VALUE);
    *work = &node->work;
    return CUDA_SUCCESS;
}

#define GET(function, type, parameters, member) \
    static CUresult function##_get(CUgraphNode node, parameters *out) \
    { \
        struct work *work; \
        NOT_NULL(out); \
        TRY(work_of(node, type, &work)); \
        *out = work->member; \
        return CUDA_SUCCESS; \
    } \
    CUAPI CUresult function(CUgraphNode node, parameters *out) { DRIVER_CALL(function##_get(node, out)); }
#define SET(function, type, parameters, member) \
    static CUresult function##_set(CUgraphNode node, const parameters *in) \
    { \
        struct work *work; \
        NOT_NULL(in); \
        TRY(work_of(node, type, &work)); \
        work->member = *in; \
        return CUDA_SUCCESS; \
    } \
    CUAPI CUresult function(CUgraphNode node, const parameters *in) { DRIVER_CALL(function##_set(node, in)); }

GET(cuGraphMemcpyNodeGetParams, NODE_COPY, CUmemcpy3D, copy)
SET(cuGraphMemcpyNodeSetParams, NODE_COPY, CUmemcpy3D, copy)
GET(cuGraphMemsetNodeGetParams, NODE_FILL, CUfillNode, fill)
SET(cuGraphMemsetNodeSetParams, NODE_FILL, CUfillNode, fill)
GET(cuGraphHostNodeGetParams, NODE_HOST, CUhostNode, host)
SET(cuGraphHostNodeSetParams, NODE_HOST, CUhostNode, host)
GET(cuGraphChildGraphNodeGetGraph, NODE_CHILD, CUgraph, child)
GET(cuGraphEventRecordNodeGetEvent, NODE_RECORD, CUevent, event)
GET(cuGraphEventWaitNodeGetEvent, NODE_WAIT, CUevent, event)
GET(cuGraphMemAllocNodeGetParams, NODE_ALLOC, CUallocNode, alloc)
GET(cuGraphMemFreeNodeGetParams, NODE_FREE, CUdeviceptr, address)

#define ADD(name, parameters, ...) \
    CUAPI CUresult name parameters { DRIVER_CALL(__VA_ARGS__); }

ADD(cuGraphAddEmptyNode, (CUgraphNode *out, CUgraph graph, nodes_in before, size_t count),
    graph_add(out, graph, before, count, &(struct work){ .type = NODE_EMPTY }))
ADD(cuGraphAddMemcpyNode,
    (CUgraphNode *out, CUgraph graph, nodes_in before, size_t count, const CUmemcpy3D *copy, CUcontext context),
    ((void)context, add_copy(out, graph, before, count, copy)))
ADD(cuGraphAddMemsetNode,
    (CUgraphNode *out, CUgraph graph, nodes_in before, size_t count, const CUfillNode *fill, CUcontext context),
    ((void)context, add_fill(out, graph, before, count, fill)))
ADD(cuGraphAddHostNode, (CUgraphNode *out, CUgraph graph, nodes_in before, size_t count, const CUhostNode *host),
    add_host(out, graph, before, count, host))
ADD(cuGraphAddChildGraphNode, (CUgraphNode *out, CUgraph graph, nodes_in before, size_t count, CUgraph child),
    add_child(out, graph, before, count, child))
ADD(cuGraphAddEventRecordNode, (CUgraphNode *out, CUgraph graph, nodes_in before, size_t count, CUevent event),
    add_event(out, graph, before, count, NODE_RECORD, event))
ADD(cuGraphAddEventWaitNode, (CUgraphNode *out, CUgraph graph, nodes_in before, size_t count, CUevent event),
    add_event(out, graph, before, count, NODE_WAIT, event))
ADD(cuGraphAddMemAllocNode, (CUgraphNode *out, CUgraph graph, nodes_in before, size_t count, CUallocNode *alloc),
    add_alloc(out, graph, before, count, alloc))
ADD(cuGraphAddMemFreeNode, (CUgraphNode *out, CUgraph graph, nodes_in before, size_t count, CUdeviceptr address),
    add_free(out, graph, before, count, address))
ADD(cuGraphAddNode, (CUgraphNode *out, CUgraph graph, nodes_in before, size_t count, CUnodeParams *params),
    add_any(out, graph, before, count, params))
ADD(cuGraphAddNode_v2,
    (CUgraphNode *out, CUgraph graph, nodes_in before, const void *edges, size_t count, CUnodeParams *params),
    ((void)edges, add_any(out, graph, before, count, params)))
ADD(cuGraphAddNode_v3,
    (CUgraphNode *out, CUgraph graph, nodes_in before, const void *edges, size_t count, CUnodeParams *params),
    ((void)edges, add_any(out, graph, before, count, params)))

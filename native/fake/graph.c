/* graph.c: graphs, their nodes and edges, and what programs may ask about them. */
#include "graph.h"

#include <stdlib.h>
#include <string.h>

static CUgraph graphs;

CUresult graph_create(CUgraph *out)
{
    CUgraph graph = calloc(1, sizeof *graph);
    REQUIRE(graph != NULL, CUDA_ERROR_OUT_OF_MEMORY);
    graph->next = graphs;
    graphs = graph;
    *out = graph;
    return CUDA_SUCCESS;
}

static void node_free(CUgraphNode node)
{
    if (node->work.type == NODE_CHILD) {
        graph_destroy(node->work.child);
    }
    free(node->dependencies);
    free(node);
}

void graph_destroy(CUgraph graph)
{
    CUgraph *link = &graphs;
    while (*link != graph) {
        link = &(*link)->next;
    }
    *link = graph->next;
    while (graph->nodes != NULL) {
        CUgraphNode node = graph->nodes;
        graph->nodes = node->next;
        node_free(node);
    }
    graph_memory_release(graph->memory);
    free(graph);
}

bool graph_known(CUgraph graph)
{
    CUgraph known = graphs;
    while (known != NULL && known != graph) {
        known = known->next;
    }
    return known != NULL;
}

bool node_known(CUgraph graph, CUgraphNode node)
{
    for (CUgraph holder = graphs; holder != NULL; holder = holder->next) {
        if (graph != NULL && holder != graph) {
            continue;
        }
        for (CUgraphNode known = holder->nodes; known != NULL; known = known->next) {
            if (known == node) {
                return true;
            }
        }
    }
    return false;
}

size_t graph_size(CUgraph graph)
{
    size_t count = 0;
    for (CUgraphNode node = graph->nodes; node != NULL; node = node->next) {
        count++;
    }
    return count;
}

bool graph_has_memory_nodes(CUgraph graph)
{
    if (graph->memory != NULL || graph->frees) {
        return true;
    }
    for (CUgraphNode node = graph->nodes; node != NULL; node = node->next) {
        if (node->work.type == NODE_CHILD && graph_has_memory_nodes(node->work.child)) {
            return true;
        }
    }
    return false;
}

static void mark_all(CUgraph graph, int mark)
{
    for (CUgraphNode node = graph->nodes; node != NULL; node = node->next) {
        node->mark = mark;
    }
}

static bool reach(CUgraphNode wanted, CUgraphNode node)
{
    if (node == wanted) {
        return true;
    }
    if (node->mark != 0) {
        return false;
    }
    node->mark = 1;
    for (size_t i = 0; i < node->dependency_count; i++) {
        if (reach(wanted, node->dependencies[i])) {
            return true;
        }
    }
    return false;
}

bool graph_precedes(CUgraphNode node, CUgraphNode const *from, size_t count)
{
    mark_all(node->graph, 0);
    for (size_t i = 0; i < count; i++) {
        if (reach(node, from[i])) {
            return true;
        }
    }
    return false;
}

/* The allocation node that hands out an address: one not yet freed rather than one that is, `preferred`'s before others. */
CUgraphNode graph_allocation_of(CUdeviceptr address, CUgraph preferred)
{
    CUgraphNode found = NULL;
    for (CUgraph graph = graphs; graph != NULL; graph = graph->next) {
        for (CUgraphNode node = graph->nodes; node != NULL; node = node->next) {
            if (node->work.type != NODE_ALLOC || node->work.alloc.address != address) {
                continue;
            }
            if (found == NULL || (found->freed && !node->freed) || (graph == preferred && found->graph != preferred)) {
                found = node;
            }
        }
    }
    return found;
}

static bool ready(CUgraphNode node)
{
    for (size_t i = 0; i < node->dependency_count; i++) {
        if (node->dependencies[i]->mark == 0) {
            return false;
        }
    }
    return node->mark == 0;
}

CUresult graph_order(CUgraph graph, CUgraphNode **order, size_t *count)
{
    size_t total = graph_size(graph), done = 0;
    CUgraphNode *nodes = calloc(total + 1, sizeof *nodes);
    REQUIRE(nodes != NULL, CUDA_ERROR_OUT_OF_MEMORY);
    mark_all(graph, 0);
    for (size_t before = SIZE_MAX; before != done && done < total;) {
        before = done;
        for (CUgraphNode node = graph->nodes; node != NULL; node = node->next) {
            if (ready(node)) {
                node->mark = 1;
                nodes[done++] = node;
            }
        }
    }
    if (done < total) {
        free(nodes);
        return CUDA_ERROR_INVALID_VALUE;
    }
    *order = nodes;
    *count = total;
    return CUDA_SUCCESS;
}

static CUgraphNode twin_of(CUgraph clone, CUgraphNode original)
{
    CUgraphNode node = clone->nodes;
    while (node != NULL && node->original != original) {
        node = node->next;
    }
    return node;
}

static CUresult clone_node(CUgraph clone, CUgraphNode node)
{
    struct work work = node->work;
    CUgraphNode *dependencies = calloc(node->dependency_count + 1, sizeof *dependencies);
    REQUIRE(dependencies != NULL, CUDA_ERROR_OUT_OF_MEMORY);
    for (size_t i = 0; i < node->dependency_count; i++) {
        dependencies[i] = twin_of(clone, node->dependencies[i]);
    }
    CUgraphNode made;
    CUresult rc = graph_add(&made, clone, dependencies, node->dependency_count, &work);
    free(dependencies);
    if (rc == CUDA_SUCCESS) {
        made->original = node;
    }
    return rc;
}

CUresult graph_clone(CUgraph *out, CUgraph graph)
{
    REQUIRE(!graph_has_memory_nodes(graph), CUDA_ERROR_NOT_SUPPORTED);
    CUgraphNode *order;
    size_t count;
    TRY(graph_order(graph, &order, &count));
    CUgraph clone = NULL;
    CUresult rc = graph_create(&clone);
    for (size_t i = 0; rc == CUDA_SUCCESS && i < count; i++) {
        rc = clone_node(clone, order[i]);
    }
    free(order);
    if (rc != CUDA_SUCCESS) {
        if (clone != NULL) {
            graph_destroy(clone);
        }
        return rc;
    }
    clone->origin = graph;
    *out = clone;
    return CUDA_SUCCESS;
}

static CUresult create(CUgraph *out, unsigned flags)
{
    NOT_NULL(out);
    REQUIRE(flags == 0, CUDA_ERROR_INVALID_VALUE);
    return graph_create(out);
}

static CUresult destroy(CUgraph graph)
{
    REQUIRE(graph_known(graph) && !graph->owned, CUDA_ERROR_INVALID_VALUE);
    graph_destroy(graph);
    return CUDA_SUCCESS;
}

static CUresult clone(CUgraph *out, CUgraph graph)
{
    NOT_NULL(out);
    REQUIRE(graph_known(graph), CUDA_ERROR_INVALID_VALUE);
    return graph_clone(out, graph);
}

static CUresult find_in_clone(CUgraphNode *out, CUgraphNode original, CUgraph graph)
{
    NOT_NULL(out);
    REQUIRE(graph_known(graph) && original != NULL, CUDA_ERROR_INVALID_VALUE);
    CUgraphNode node = twin_of(graph, original);
    REQUIRE(node != NULL, CUDA_ERROR_INVALID_VALUE);
    *out = node;
    return CUDA_SUCCESS;
}

/* The rule of every list: without room the count is returned, spare room is filled with zeros. */
static void answer(CUgraphNode *out, size_t *room, CUgraphNode const *found, size_t count)
{
    for (size_t i = 0; out != NULL && i < *room; i++) {
        out[i] = i < count ? found[i] : NULL;
    }
    *room = out == NULL || count < *room ? count : *room;
}

static CUresult list_nodes(CUgraph graph, bool roots, CUgraphNode *out, size_t *room)
{
    NOT_NULL(room);
    REQUIRE(graph_known(graph), CUDA_ERROR_INVALID_VALUE);
    CUgraphNode *found = calloc(graph_size(graph) + 1, sizeof *found);
    REQUIRE(found != NULL, CUDA_ERROR_OUT_OF_MEMORY);
    size_t count = 0;
    for (CUgraphNode node = graph->nodes; node != NULL; node = node->next) {
        if (!roots || node->dependency_count == 0) {
            found[count++] = node;
        }
    }
    answer(out, room, found, count);
    free(found);
    return CUDA_SUCCESS;
}

static CUresult list_edges(CUgraph graph, CUgraphNode *from, CUgraphNode *to, CUgraphEdgeData *data, size_t *room)
{
    NOT_NULL(room);
    REQUIRE(graph_known(graph) && (from == NULL) == (to == NULL), CUDA_ERROR_INVALID_VALUE);
    size_t count = 0;
    for (CUgraphNode node = graph->nodes; node != NULL; node = node->next) {
        for (size_t i = 0; i < node->dependency_count; i++, count++) {
            if (from != NULL && count < *room) {
                from[count] = node->dependencies[i];
                to[count] = node;
            }
        }
    }
    for (size_t i = count; from != NULL && i < *room; i++) {
        from[i] = to[i] = NULL;
    }
    *room = from == NULL || count < *room ? count : *room;
    if (data != NULL) {
        memset(data, 0, *room * sizeof *data);
    }
    return CUDA_SUCCESS;
}

static CUresult list_dependencies(CUgraphNode node, CUgraphNode *out, CUgraphEdgeData *data, size_t *room)
{
    NOT_NULL(room);
    REQUIRE(node_known(NULL, node), CUDA_ERROR_INVALID_VALUE);
    answer(out, room, node->dependencies, node->dependency_count);
    if (data != NULL) {
        memset(data, 0, *room * sizeof *data);
    }
    return CUDA_SUCCESS;
}

static bool depends_on(CUgraphNode node, CUgraphNode dependency)
{
    for (size_t i = 0; i < node->dependency_count; i++) {
        if (node->dependencies[i] == dependency) {
            return true;
        }
    }
    return false;
}

static CUresult list_dependents(CUgraphNode node, CUgraphNode *out, CUgraphEdgeData *data, size_t *room)
{
    NOT_NULL(room);
    REQUIRE(node_known(NULL, node), CUDA_ERROR_INVALID_VALUE);
    CUgraphNode *found = calloc(graph_size(node->graph) + 1, sizeof *found);
    REQUIRE(found != NULL, CUDA_ERROR_OUT_OF_MEMORY);
    size_t count = 0;
    for (CUgraphNode other = node->graph->nodes; other != NULL; other = other->next) {
        if (depends_on(other, node)) {
            found[count++] = other;
        }
    }
    answer(out, room, found, count);
    free(found);
    if (data != NULL) {
        memset(data, 0, *room * sizeof *data);
    }
    return CUDA_SUCCESS;
}

static CUresult add_edges(CUgraph graph, CUgraphNode const *from, CUgraphNode const *to, size_t count)
{
    REQUIRE(graph_known(graph) && (count == 0 || (from != NULL && to != NULL)), CUDA_ERROR_INVALID_VALUE);
    for (size_t i = 0; i < count; i++) {
        REQUIRE(node_known(graph, from[i]) && node_known(graph, to[i]) && from[i] != to[i], CUDA_ERROR_INVALID_VALUE);
        REQUIRE(!depends_on(to[i], from[i]), CUDA_ERROR_INVALID_VALUE);
    }
    for (size_t i = 0; i < count; i++) {
        CUgraphNode *moved = realloc(to[i]->dependencies, (to[i]->dependency_count + 1) * sizeof *moved);
        REQUIRE(moved != NULL, CUDA_ERROR_OUT_OF_MEMORY);
        to[i]->dependencies = moved;
        moved[to[i]->dependency_count++] = from[i];
    }
    return CUDA_SUCCESS;
}

static void drop_edge(CUgraphNode node, CUgraphNode dependency)
{
    size_t kept = 0;
    for (size_t i = 0; i < node->dependency_count; i++) {
        if (node->dependencies[i] != dependency) {
            node->dependencies[kept++] = node->dependencies[i];
        }
    }
    node->dependency_count = kept;
}

/* Edges and nodes of a graph that allocates or frees can not be taken away. */
static CUresult remove_edges(CUgraph graph, CUgraphNode const *from, CUgraphNode const *to, size_t count)
{
    REQUIRE(graph_known(graph) && (count == 0 || (from != NULL && to != NULL)), CUDA_ERROR_INVALID_VALUE);
    REQUIRE(!graph_has_memory_nodes(graph), CUDA_ERROR_NOT_SUPPORTED);
    for (size_t i = 0; i < count; i++) {
        REQUIRE(node_known(graph, from[i]) && node_known(graph, to[i]), CUDA_ERROR_INVALID_VALUE);
        REQUIRE(depends_on(to[i], from[i]), CUDA_ERROR_INVALID_VALUE);
    }
    for (size_t i = 0; i < count; i++) {
        drop_edge(to[i], from[i]);
    }
    return CUDA_SUCCESS;
}

static CUresult destroy_node(CUgraphNode node)
{
    REQUIRE(node_known(NULL, node), CUDA_ERROR_INVALID_VALUE);
    REQUIRE(!graph_has_memory_nodes(node->graph), CUDA_ERROR_NOT_SUPPORTED);
    CUgraphNode *link = &node->graph->nodes;
    for (CUgraphNode other = *link; other != NULL; other = other->next) {
        drop_edge(other, node);
    }
    while (*link != node) {
        link = &(*link)->next;
    }
    *link = node->next;
    node_free(node);
    return CUDA_SUCCESS;
}

static CUresult get_type(CUgraphNode node, int *type)
{
    NOT_NULL(type);
    REQUIRE(node_known(NULL, node), CUDA_ERROR_INVALID_VALUE);
    *type = node->work.type;
    return CUDA_SUCCESS;
}

typedef const CUgraphNode *nodes_in;

CUAPI CUresult cuGraphCreate(CUgraph *out, unsigned flags) { DRIVER_CALL(create(out, flags)); }
CUAPI CUresult cuGraphDestroy(CUgraph graph) { DRIVER_CALL(destroy(graph)); }
CUAPI CUresult cuGraphClone(CUgraph *out, CUgraph graph) { DRIVER_CALL(clone(out, graph)); }
CUAPI CUresult cuGraphNodeFindInClone(CUgraphNode *o, CUgraphNode n, CUgraph g) { DRIVER_CALL(find_in_clone(o, n, g)); }
CUAPI CUresult cuGraphDestroyNode(CUgraphNode node) { DRIVER_CALL(destroy_node(node)); }
CUAPI CUresult cuGraphNodeGetType(CUgraphNode node, int *type) { DRIVER_CALL(get_type(node, type)); }
CUAPI CUresult cuGraphGetNodes(CUgraph g, CUgraphNode *out, size_t *n) { DRIVER_CALL(list_nodes(g, false, out, n)); }
CUAPI CUresult cuGraphGetRootNodes(CUgraph g, CUgraphNode *out, size_t *n) { DRIVER_CALL(list_nodes(g, true, out, n)); }
CUAPI CUresult cuGraphGetEdges(CUgraph graph, CUgraphNode *from, CUgraphNode *to, size_t *count)
{
    DRIVER_CALL(list_edges(graph, from, to, NULL, count));
}
CUAPI CUresult cuGraphGetEdges_v2(CUgraph graph, CUgraphNode *from, CUgraphNode *to, CUgraphEdgeData *data, size_t *count)
{
    DRIVER_CALL(list_edges(graph, from, to, data, count));
}
CUAPI CUresult cuGraphNodeGetDependencies(CUgraphNode node, CUgraphNode *out, size_t *count)
{
    DRIVER_CALL(list_dependencies(node, out, NULL, count));
}
CUAPI CUresult cuGraphNodeGetDependencies_v2(CUgraphNode node, CUgraphNode *out, CUgraphEdgeData *data, size_t *count)
{
    DRIVER_CALL(list_dependencies(node, out, data, count));
}
CUAPI CUresult cuGraphNodeGetDependentNodes(CUgraphNode node, CUgraphNode *out, size_t *count)
{
    DRIVER_CALL(list_dependents(node, out, NULL, count));
}
CUAPI CUresult cuGraphNodeGetDependentNodes_v2(CUgraphNode node, CUgraphNode *out, CUgraphEdgeData *data, size_t *count)
{
    DRIVER_CALL(list_dependents(node, out, data, count));
}
CUAPI CUresult cuGraphAddDependencies(CUgraph g, nodes_in from, nodes_in to, size_t n)
{
    DRIVER_CALL(add_edges(g, from, to, n));
}
CUAPI CUresult cuGraphAddDependencies_v2(CUgraph g, nodes_in from, nodes_in to, const CUgraphEdgeData *data, size_t n)
{
    (void)data;
    DRIVER_CALL(add_edges(g, from, to, n));
}
CUAPI CUresult cuGraphRemoveDependencies(CUgraph g, nodes_in from, nodes_in to, size_t n)
{
    DRIVER_CALL(remove_edges(g, from, to, n));
}
CUAPI CUresult cuGraphRemoveDependencies_v2(CUgraph g, nodes_in from, nodes_in to, const CUgraphEdgeData *d, size_t n)
{
    (void)d;
    DRIVER_CALL(remove_edges(g, from, to, n));
}

/*
 * graph_walk.c: see graph_walk.h.
 */
#include "graph_walk.h"

#include <stdbool.h>
#include <string.h>

#include "../limiter/amount.h"
#include "../limiter/region.h"
#include "real.h"

enum { FIRST_SPANS = 128, DEPTH_MAX = 16 };

/* One allocation or one free. */
struct span {
    CUdeviceptr start;
    uint64_t bytes;                    /* 0: a free */
    CUdevice device;
};

struct spans {
    struct span *items;
    size_t count;
    size_t room;
};

static bool add(struct spans *spans, const struct span *span)
{
    if (spans->count == spans->room) {
        size_t room = spans->room == 0 ? FIRST_SPANS : spans->room * 2;
        struct span *moved = fg_region_private(room * sizeof(*moved));
        if (moved == NULL)
            return false;
        if (spans->items != NULL) {
            memcpy(moved, spans->items, spans->count * sizeof(*moved));
            fg_region_free(spans->items, spans->room * sizeof(*moved));
        }
        spans->items = moved;
        spans->room = room;
    }
    spans->items[spans->count++] = *span;
    return true;
}

static CUresult walk(CUgraph graph, struct spans *spans, int depth);

static CUresult added(struct spans *spans, const struct span *span)
{
    return add(spans, span) ? CUDA_SUCCESS : CUDA_ERROR_OUT_OF_MEMORY;
}

static CUresult look_at(CUgraphNode node, struct spans *spans, int depth)
{
    int type = -1;
    struct fg_graph_alloc alloc;
    struct span span = {.start = 0};
    CUgraph child = NULL;
    CUresult code = FG_CALL(cuGraphNodeGetType, node, &type);
    if (code != CUDA_SUCCESS)
        return code;
    if (type == CU_GRAPH_NODE_TYPE_GRAPH) {
        code = FG_CALL(cuGraphChildGraphNodeGetGraph, node, &child);
        return code == CUDA_SUCCESS ? walk(child, spans, depth + 1) : code;
    }
    if (type == CU_GRAPH_NODE_TYPE_MEM_FREE) {
        code = FG_CALL(cuGraphMemFreeNodeGetParams, node, &span.start);
        return code == CUDA_SUCCESS ? added(spans, &span) : code;
    }
    if (type != CU_GRAPH_NODE_TYPE_MEM_ALLOC)
        return CUDA_SUCCESS;
    code = FG_CALL(cuGraphMemAllocNodeGetParams, node, &alloc);
    if (code != CUDA_SUCCESS || alloc.location.type != CU_MEM_LOCATION_TYPE_DEVICE)
        return code;
    span = (struct span){.start = alloc.address, .bytes = alloc.bytes, .device = alloc.location.id};
    return added(spans, &span);
}

static CUresult walk(CUgraph graph, struct spans *spans, int depth)
{
    size_t count = 0;
    CUresult code = depth > DEPTH_MAX ? CUDA_SUCCESS : FG_CALL(cuGraphGetNodes, graph, NULL, &count);
    if (code != CUDA_SUCCESS || count == 0)
        return code;
    size_t bytes = count * sizeof(CUgraphNode);
    CUgraphNode *nodes = fg_region_private(bytes);
    if (nodes == NULL)
        return CUDA_ERROR_OUT_OF_MEMORY;
    code = FG_CALL(cuGraphGetNodes, graph, nodes, &count);
    for (size_t index = 0; code == CUDA_SUCCESS && index < count; index++)
        code = look_at(nodes[index], spans, depth);
    fg_region_free(nodes, bytes);
    return code;
}

/* By address, allocations before frees. Shell's way: there may be ten thousands, and nothing to sort them with. */
static void sort(struct spans *spans)
{
    for (size_t gap = spans->count / 2; gap > 0; gap /= 2) {
        for (size_t index = gap; index < spans->count; index++) {
            struct span span = spans->items[index];
            size_t at = index;
            while (at >= gap && (spans->items[at - gap].start > span.start ||
                                 (spans->items[at - gap].start == span.start && spans->items[at - gap].bytes < span.bytes))) {
                spans->items[at] = spans->items[at - gap];
                at -= gap;
            }
            spans->items[at] = span;
        }
    }
}

static void count_pages(struct fg_graph_need *need, CUdevice device, uint64_t pages, uint64_t lasting)
{
    uint32_t at = 0;
    while (at < need->count && need->on[at].device != device)
        at++;
    if (at == FG_GRAPH_DEVICES_MAX || pages + lasting == 0)
        return;
    if (at == need->count) {
        need->on[at].device = device;
        need->on[at].pages = need->on[at].lasting = 0;
        need->count++;
    }
    need->on[at].pages = (uint32_t)fg_min(need->on[at].pages + pages, UINT32_MAX);
    need->on[at].lasting = (uint32_t)fg_min(need->on[at].lasting + lasting, UINT32_MAX);
}

static void add_up(const struct spans *spans, struct fg_graph_need *need)
{
    uint64_t counted = 0;              /* pages below this one have been */
    for (size_t index = 0; index < spans->count;) {
        const struct span *largest = &spans->items[index];
        int64_t left = 0;              /* allocations at this address that the graph does not free */
        size_t next = index;
        for (; next < spans->count && spans->items[next].start == largest->start; next++)
            left += spans->items[next].bytes != 0 ? 1 : -1;
        index = next;
        if (largest->bytes == 0)
            continue;
        uint64_t first = largest->start / FG_GRAPH_PAGE;
        uint64_t end = (largest->start + largest->bytes + FG_GRAPH_PAGE - 1) / FG_GRAPH_PAGE;
        uint64_t from = first > counted ? first : counted;
        count_pages(need, largest->device, fg_subtract(end, from), left > 0 ? end - first : 0);
        counted = end > counted ? end : counted;
    }
    for (uint32_t at = 0; at < need->count; at++)
        need->on[at].lasting = (uint32_t)fg_min(need->on[at].lasting, need->on[at].pages);
}

CUresult fg_graph_need(CUgraph graph, struct fg_graph_need *need)
{
    struct spans spans = {.items = NULL};
    need->count = 0;
    CUresult code = graph == NULL ? CUDA_SUCCESS : walk(graph, &spans, 0);
    if (code == CUDA_SUCCESS) {
        sort(&spans);
        add_up(&spans, need);
    }
    if (spans.items != NULL)
        fg_region_free(spans.items, spans.room * sizeof(struct span));
    return code;
}

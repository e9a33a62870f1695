/*
 * graph_walk.h: how much memory a graph's allocation nodes need.
 *
 * The driver gives every allocation node its address when the node is made, and nodes that run one after the other may
 * get the same one. So what a graph needs at once is not the sum of its allocations, which may be many times as much,
 * but the pages under their addresses.
 */
#ifndef FRACGPU_INTERCEPTOR_GRAPH_WALK_H
#define FRACGPU_INTERCEPTOR_GRAPH_WALK_H

#include <stdint.h>

#include "cuda_types.h"

enum { FG_GRAPH_DEVICES_MAX = 8 };     /* further devices of one graph are charged once they hold its memory */

#define FG_GRAPH_PAGE (UINT64_C(2) << 20)

struct fg_graph_need {
    uint32_t count;
    struct {
        CUdevice device;
        uint32_t pages;                /* of FG_GRAPH_PAGE, under all allocations */
        uint32_t lasting;              /* of these at most, under those that the graph itself does not free */
    } on[FG_GRAPH_DEVICES_MAX];
};

/* The driver's own code for a graph that it does not know or can not tell about: it could not be charged, and the
 * driver has as little reason to make it executable. */
CUresult fg_graph_need(CUgraph graph, struct fg_graph_need *need);

#endif

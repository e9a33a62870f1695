/*
 * graph.h: what the parts of the model that build, run and capture graphs share.
 *
 * graph.c holds graphs and their edges, graph_nodes.c makes nodes, graph_memory.c is the memory behind allocation
 * nodes, graph_exec.c runs graphs, capture.c turns the work of streams into nodes.
 */
#ifndef FAKE_GRAPH_H
#define FAKE_GRAPH_H

#include "driver.h"

typedef struct fake_graph *CUgraph;
typedef struct fake_node *CUgraphNode;
typedef struct fake_exec *CUgraphExec;

enum node_type { NODE_KERNEL = 0, NODE_COPY = 1, NODE_FILL = 2, NODE_HOST = 3, NODE_CHILD = 4, NODE_EMPTY = 5,
                 NODE_WAIT = 6, NODE_RECORD = 7, NODE_ALLOC = 10, NODE_FREE = 11 };

typedef struct { unsigned char from_port, to_port, type, reserved[5]; } CUgraphEdgeData;
typedef struct { CUdeviceptr to; size_t pitch; unsigned value, element; size_t width, height; } CUfillNode;
typedef struct { void (*function)(void *); void *data; } CUhostNode;
typedef struct {
    CUmemPoolProps properties;
    const CUmemAccessDesc *accesses;
    size_t access_count;
    size_t size;
    CUdeviceptr address;                  /* the driver's answer */
} CUallocNode;

/* What a node does. */
struct work {
    int type;
    union {
        CUmemcpy3D copy;
        CUfillNode fill;
        CUhostNode host;
        CUgraph child;                    /* the node's own clone */
        CUevent event;
        CUallocNode alloc;
        CUdeviceptr address;              /* NODE_FREE */
    };
};

struct fake_node {
    CUgraphNode next;
    CUgraph graph;
    CUgraphNode original;                 /* in the graph that this one was cloned from */
    struct work work;
    CUgraphNode *dependencies;
    size_t dependency_count;
    bool freed;                           /* NODE_ALLOC: some graph has a node that frees it */
    int mark;                             /* scratch of searches */
};

struct graph_memory;

struct fake_graph {
    CUgraph next;
    CUgraphNode nodes;                    /* in the order of their creation */
    CUgraph origin;                       /* what it was cloned from */
    struct graph_memory *memory;          /* NULL without allocation nodes */
    bool frees;                           /* has nodes that free */
    bool owned;                           /* by a node or a capture: not the program's to destroy */
};

/* ---- graph.c ---- */
CUresult graph_create(CUgraph *out);
void graph_destroy(CUgraph graph);
bool graph_known(CUgraph graph);
/* Whether the node is in that graph; in any when `graph` is NULL. */
bool node_known(CUgraph graph, CUgraphNode node);
CUresult graph_clone(CUgraph *out, CUgraph graph);
size_t graph_size(CUgraph graph);
/* Whether the graph or one inside it allocates or frees. */
bool graph_has_memory_nodes(CUgraph graph);
/* Whether `node` can be reached from one of `from` by following dependencies. */
bool graph_precedes(CUgraphNode node, CUgraphNode const *from, size_t count);
CUgraphNode graph_allocation_of(CUdeviceptr address, CUgraph preferred);
/* The nodes in an order in which they can run; CUDA_ERROR_INVALID_VALUE for a cycle. The caller frees *order. */
CUresult graph_order(CUgraph graph, CUgraphNode **order, size_t *count);

/* ---- graph_nodes.c ---- */
/* Add a node. `work` is taken over; an allocation's address is filled in. */
CUresult graph_add(CUgraphNode *out, CUgraph graph, CUgraphNode const *dependencies, size_t count, struct work *work);

/* ---- graph_memory.c ---- */
void graph_memory_retain(struct graph_memory *memory);
void graph_memory_release(struct graph_memory *memory);
/* An address for an allocation node that runs after `dependencies`. */
CUresult graph_memory_place(CUgraph graph, CUgraphNode node, CUdeviceptr *address);
/* A node of the same graph frees that address: what runs after it may have the address again. */
void graph_memory_vacate(struct graph_memory *memory, CUdeviceptr address, CUgraphNode free_node);
/* Physical memory behind all of it, from what the stream keeps. */
CUresult graph_memory_map(struct graph_memory *memory, uint64_t stream);
void graph_memory_associate(struct graph_memory *memory, bool executable);
bool graph_memory_associated(const struct graph_memory *memory);
bool graph_memory_live(const struct graph_memory *memory);
CUresult graph_memory_begin(struct graph_memory *memory, CUdeviceptr address, size_t size);
void graph_memory_free_all(struct graph_memory *memory);
/* For memory_release: a range of the kind RANGE_GRAPH ends. */
void graph_memory_end(const struct range *range);
void graph_memory_reset(int device);

/* ---- copy.c, fill.c, stream.c ---- */
CUresult copy_run(const CUmemcpy3D *copy);
CUresult fill_run(const CUfillNode *fill);
CUresult event_run_record(CUevent event);
bool event_exists(CUevent event);
/* What a stream is called, the same for all spellings of the per-thread default stream of one thread. */
uint64_t stream_key(CUstream stream);

#endif /* FAKE_GRAPH_H */

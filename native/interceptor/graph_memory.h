/*
 * graph_memory.h: what is charged for the memory of graphs.
 *
 * A device has one pool for it, which no handle names. Its record is like that of a stream-ordered pool: growth is
 * reserved before the call that may cause it, and the charge is settled to CU_GRAPH_MEM_ATTR_RESERVED_MEM_CURRENT after
 * it. The attribute is the process's own, so each process charges what it holds.
 */
#ifndef FRACGPU_INTERCEPTOR_GRAPH_MEMORY_H
#define FRACGPU_INTERCEPTOR_GRAPH_MEMORY_H

#include "graph_walk.h"
#include "process.h"

/* One executable graph's memory on one device. */
struct fg_graph_part {
    CUdevice device;
    uint32_t pages;
    uint32_t lasting;
    bool frees_itself;                 /* instantiated to free what lasts before it runs again */
    bool ran;                          /* since it was mapped there */
    uint64_t stream;                   /* where it was mapped last, 0: nowhere */
    uint32_t epoch;                    /* see graph_memory.c */
};

/* What a call has in its hands between its reservation and its end. */
struct fg_graph_hold {
    struct fg_pool *record;
    uint64_t flying;
};

/* Reserve what putting the part's memory in its place for `stream` may take from the GPU. On success the call follows,
 * and fg_graph_mapped after it. */
CUresult fg_graph_reserve(struct fg_process *process, const struct fg_graph_part *part, uint64_t stream,
                          struct fg_graph_hold *hold);

/* The call is over. `mapped`: the memory is there, and the part remembers where; `launched`: what lasts is in use. */
void fg_graph_mapped(struct fg_process *process, struct fg_graph_part *part, uint64_t stream, bool mapped, bool launched,
                     const struct fg_graph_hold *hold);

/* It is less than it was: what a stream had there may be gone. Nothing for the record of a pool. */
void fg_graph_memory_shrank(struct fg_process *process, const struct fg_pool *record);
/* A pointer was freed that no allocation is known for: it may be what a graph left behind. */
void fg_graph_pointer_freed(struct fg_process *process);

/* Whether a record in the list of pools is a device's graph memory; give back what it holds unused. */
bool fg_graph_memory_is(const struct fg_pool *record);
/* The same of what stands in the place of a pool's handle. */
bool fg_graph_memory_handle(uint64_t handle);
CUresult fg_graph_memory_trim(struct fg_process *process, const struct fg_pool *record);
/* The record of a device's graph memory, NULL while there is none. */
struct fg_pool *fg_graph_memory_find(struct fg_process *process, CUdevice device);
/* What a pool or a device's graph memory has reserved from the GPU. */
bool fg_graph_memory_reserved(uint64_t handle, uint64_t *reserved);

#endif

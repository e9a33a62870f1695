/*
 * process.h: what this process holds: its allocations, and what is charged for which pointer.
 *
 * One region that a forked child finds zeroed, which is the state of a process that has not attached yet. The word
 * that every hook reads first is therefore the fork guard as well.
 */
#ifndef FRACGPU_INTERCEPTOR_PROCESS_H
#define FRACGPU_INTERCEPTOR_PROCESS_H

#include "../limiter/group.h"
#include "../limiter/table.h"
#include "cuda_types.h"

enum { FG_DEVICES_MAX = 64, FG_POOLS_MAX = 256, FG_LEFT_MAX = 256 };

enum fg_attach_state {
    FG_DETACHED = 0,                   /* also what a forked child sees */
    FG_ATTACHING = 1,
    FG_ATTACHED = 2
};

/* A stream-ordered pool; see pools.c. */
struct fg_pool {
    uint64_t handle;                   /* 0: unused; FG_POOL_GONE: destroyed, pointers remain */
    struct fg_group *group;            /* NULL: not in a GPU's memory */
    uint64_t charged[FG_MEMBERS_MAX];  /* by member */
    uint64_t in_flight;                /* reserved for calls that have not returned */
    uint64_t headroom;                 /* see pool_record.h */
    uint64_t calls;                    /* allocations that have begun and not ended */
    uint64_t reserved_seen;            /* by the last settlement */
    uint64_t pointers;                 /* allocations that have not been freed */
    uint32_t requests;                 /* not 0: a thread is in charge of the pool; how often it was asked to settle */
};

#define FG_POOL_GONE UINT64_MAX

enum { FG_GRAPH_STREAMS_MAX = 16 };

/* Where graphs with memory ran on a device; see graph_memory.c. */
struct fg_graph_stream {
    uint64_t stream;
    uint32_t pages;
    uint32_t epoch;
};

struct fg_graph_streams {
    uint32_t epoch;
    uint32_t freed_epoch;              /* when something was freed outside graphs */
    uint32_t turn;                     /* whose place a new stream takes */
    struct fg_graph_stream of[FG_GRAPH_STREAMS_MAX];
};

/* The primary context of a device; see primary.c. */
struct fg_primary {
    uint64_t charge;                   /* 0: none; else bytes, member and a bit that says so */
    uint64_t references;               /* that this process's program has */
};

/* The charges of a time: see residue.c. */
struct fg_window {
    uint64_t began_ns;                 /* CLOCK_MONOTONIC; 0: nothing is known of it */
    uint64_t low, high;
};

struct fg_residue {
    uint64_t checked_ns;
    uint64_t contexts;                 /* that are charged */
    uint32_t restart;                  /* their number has changed */
    uint32_t busy;                     /* a thread is checking; what follows is its */
    uint64_t published_ns;             /* of the last reading */
    uint64_t began_ns;                 /* the window that is open */
    struct fg_window former;
    int64_t correction;                /* part of the slot's overhead */
};

/* Memory of this process's making that only others have; see sharing.c. */
struct fg_left {
    uint32_t state;
    struct fg_charge charge;
    uint64_t name;
    void *kept;                        /* the locks that say so */
};

struct fg_process {
    uint32_t state;                    /* enum fg_attach_state */
    uint32_t member_count;
    uint32_t group_count;
    uint32_t pools_used;               /* pools [0, pools_used) may be in use */
    uint32_t pools_adding;             /* a thread is adding a pool */
    uint32_t pools_hold;               /* a pool has something charged, and may have given it up since */
    uint8_t group_of_device[FG_DEVICES_MAX];   /* by CUDA ordinal: group index + 1, 0 unknown */
    struct fg_group groups[FG_MEMBERS_MAX];
    struct fg_member members[FG_MEMBERS_MAX];
    struct fracgpu_config configs[FG_MEMBERS_MAX];   /* limits that do not come from a file */
    struct fg_table pointers;          /* device pointer -> charge; link: context, pool index for FG_POOL */
    struct fg_table contexts;          /* context that the program created -> charge; link: references */
    struct fg_table modules;           /* module, library, or context for its heaps -> charge; link: context */
    struct fg_table green_contexts;    /* green context -> link: device */
    struct fg_table handles;           /* physical handle -> link: references; bytes: key in `physicals` */
    struct fg_table physicals;         /* serial number -> charge; link: references */
    struct fg_table maps;              /* mapped address -> bytes; link: handle */
    struct fg_table pinned;            /* host address -> what is counted for it */
    struct fg_table arrays;            /* array -> charge, link: context; or what is mapped onto it: array_tiles.h */
    struct fg_table mipmaps;
    struct fg_table tiles;             /* position in such an array -> bytes: key in `physicals`; link: next tile */
    struct fg_table graphs;            /* executable graph -> its memory, where it has any; see graphs.c */
    struct fg_table shares;            /* serial number -> bytes: its locks; link: its name in the account */
    struct fg_table imports;           /* imported address -> bytes: serial number in `shares`; link: times opened */
    struct fg_table exports;           /* pointer of a pool -> bytes: serial number in `shares` */
    uint64_t last_serial;
    uint32_t last_share;               /* the newest name that was counted */
    uint32_t left_any;                 /* `left` may have something to settle */
    struct fg_left left[FG_LEFT_MAX];
    struct fg_pool pools[FG_POOLS_MAX];
    struct fg_graph_streams graph_streams[FG_DEVICES_MAX];
    struct fg_primary primaries[FG_DEVICES_MAX];   /* by CUDA ordinal */
    struct fg_residue residues[FG_MEMBERS_MAX];    /* by group */
};

extern struct fg_process *fg_process_region;

/* The attached process, attaching it first where needed; NULL when nothing can be enforced: refuse. */
struct fg_process *fg_process_attach(void);

/* The attached process, or NULL when this process has nothing charged. */
static inline struct fg_process *fg_process_attached(void)
{
    struct fg_process *process = __atomic_load_n(&fg_process_region, __ATOMIC_ACQUIRE);
    if (process == NULL || __atomic_load_n(&process->state, __ATOMIC_ACQUIRE) != FG_ATTACHED)
        return NULL;
    return process;
}

static inline struct fg_process *fg_process(void)
{
    struct fg_process *process = fg_process_attached();
    return __builtin_expect(process != NULL, 1) ? process : fg_process_attach();
}

#endif

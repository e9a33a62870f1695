/*
 * orphans.h: what a context takes with it when it goes.
 *
 * Each pointer is remembered with the context that it was allocated in. When a context is destroyed or reset, its
 * pointers are taken out of the tables before the driver frees them (it may give an address to another thread at once)
 * and discharged after it did, as in every other free. The tables are walked for that; contexts go seldom.
 */
#ifndef FRACGPU_INTERCEPTOR_ORPHANS_H
#define FRACGPU_INTERCEPTOR_ORPHANS_H

#include <stdbool.h>

#include "process.h"

struct fg_orphan {
    struct fg_table *table;
    uint64_t key;
    struct fg_value value;
};

struct fg_orphans {
    struct fg_process *process;
    struct fg_orphan *list;
    size_t count, capacity;
    uint64_t context;                  /* whose; 0: all of `group` that no context of the program's own has */
    struct fg_group *group;
    struct fg_table *table;            /* that is being walked */
};

/* Take what belongs to `context`, which the program created. */
void fg_orphans_of_context(struct fg_orphans *orphans, struct fg_process *process, CUcontext context);

/* Take what belongs to the primary context of `group`'s GPU, pools included. */
void fg_orphans_of_primary(struct fg_orphans *orphans, struct fg_process *process, struct fg_group *group);

/* The context is gone: discharge. */
void fg_orphans_discharge(struct fg_orphans *orphans);

/* It is not: put everything back. */
void fg_orphans_restore(struct fg_orphans *orphans);

#endif

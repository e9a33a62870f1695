/*
 * residue.h: what the driver sees of this process, and the account does not.
 *
 * Lazily loaded code, workspaces, printf buffers, the part of a context above its floor: nothing here can see them, the
 * host can, and says so in the feedback section. The difference is charged as overhead.
 */
#ifndef FRACGPU_INTERCEPTOR_RESIDUE_H
#define FRACGPU_INTERCEPTOR_RESIDUE_H

#include "process.h"

/* Correct the overhead of `group`, if it is time to. Cheap when it is not. */
void fg_residue_check(struct fg_process *process, struct fg_group *group);

/* The process has one context more or fewer on the GPU of `group`, of those that are charged. */
void fg_residue_context(struct fg_process *process, struct fg_group *group, int change);

/* What is charged as overhead has changed otherwise. */
void fg_residue_restart(struct fg_process *process, struct fg_group *group);

/* The group that an allocation of this process belongs to. */
struct fg_group *fg_residue_group(struct fg_process *process, uint32_t member);

#endif

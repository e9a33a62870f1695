/*
 * source.h: where a build of the shim learns what it has to enforce.
 *
 * source_container.c: from the directories that the node mounted, and from nothing else.
 * source_standalone.c: from the environment, for runs without a container; the environment is the user's own.
 */
#ifndef FRACGPU_INTERCEPTOR_SOURCE_H
#define FRACGPU_INTERCEPTOR_SOURCE_H

#include <stdbool.h>
#include <stddef.h>

#include "../limiter/group.h"

struct fg_source_name {
    char text[FRACGPU_ALLOCATION_ID_BYTES];
};

/* The names of all allocations, sorted. -1 when there are none to be found or more than FG_MEMBERS_MAX. */
int fg_source_names(struct fg_source_name names[FG_MEMBERS_MAX]);

/* Open the limits of one of them. `storage` holds them where they are not a file, and must outlive `page`. */
enum fg_fault fg_source_open(const struct fg_source_name *name, struct fg_page *page, struct fracgpu_config *storage);

/* The path of its state file; false when it does not fit. */
bool fg_source_state_path(const struct fg_source_name *name, char *path, size_t bytes);

/* The path of the real library `name`, as the dynamic linker knows it from DT_NEEDED. */
bool fg_source_real_library(const char *name, char *path, size_t bytes);

/* Helpers for both. */
void fg_source_sort(struct fg_source_name *names, int count);
bool fg_path_join(char *path, size_t bytes, const char *first, const char *second, const char *third);

#endif

/*
 * array_tiles.h: what is mapped onto sparse arrays, and onto arrays with deferred mapping.
 */
#ifndef FRACGPU_INTERCEPTOR_ARRAY_TILES_H
#define FRACGPU_INTERCEPTOR_ARRAY_TILES_H

#include "process.h"

/* fg_value.kind of such an array: nothing is charged for it. bytes: its serial number; link: key of its newest tile. */
#define FG_TILES UINT32_MAX

/* The value of an array onto which nothing is mapped yet. */
struct fg_value fg_tiles_none(struct fg_process *process);

/* The array is gone, and refers to nothing any more. */
void fg_tiles_forget(struct fg_process *process, const struct fg_value *array);

#endif

/*
 * share_mark.h: a name on a file descriptor that travels with it to other processes.
 *
 * The mark is a pair of locks which the open file itself holds: they go where its descriptors go, disappear with the
 * last one, and hinder nobody. A process reads what its own descriptor holds in /proc/self/fdinfo.
 */
#ifndef FRACGPU_INTERCEPTOR_SHARE_MARK_H
#define FRACGPU_INTERCEPTOR_SHARE_MARK_H

#include <stdbool.h>

#include "../limiter/share_lock.h"

struct fg_share_mark {
    uint64_t tag;                      /* of the state file in whose account it is */
    struct fg_share_name name;
};

void fg_share_mark(int descriptor, const struct fg_share_mark *mark);
bool fg_share_read_mark(int descriptor, struct fg_share_mark *mark);

#endif

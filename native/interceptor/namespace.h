/*
 * namespace.h: looking up what may not be there, in a process where not to find it is the end.
 *
 * Before glibc 2.34 a dlsym that fails in a namespace of its own (dlmopen) does not return: the loader reports the error
 * to the first namespace, where nobody waits for it, and ends the process with status 127 (seen with 2.31). A driver
 * lacks some of the functions that we hook, whatever its version. So there, and only there, we look first.
 */
#ifndef FRACGPU_INTERCEPTOR_NAMESPACE_H
#define FRACGPU_INTERCEPTOR_NAMESPACE_H

#include <stdbool.h>

/* Whether dlsym on `library` may be asked for `name`: false where it would fail and that would be the end. */
bool fg_may_look_up(void *library, const char *name);

#endif

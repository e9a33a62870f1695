/*
 * exports.c: the functions that the shim exports, made from hooks.def, and nothing else.
 *
 * Each one calls its hook and leaves errno as the program had it: the real functions do not touch it either.
 *
 * FRACGPU_MUTANT is for tests only. With it, `-Dfg_hook_<symbol>=fg_forward_<symbol>` makes a library that lacks one
 * hook: that function merely forwards. Every test of a hook must fail on the library that lacks it.
 */
#include <errno.h>

#include "real.h"

#define EXPORTED __attribute__((visibility("default")))

#ifdef FRACGPU_MUTANT
#define HOOK(concern, name, parameters, arguments) \
    int fg_forward_##name parameters; \
    int fg_forward_##name parameters \
    { \
        return ((fg_type_##name *)fg_real(FG_REAL_##name)) arguments; \
    }
#include "hooks.def"
#undef HOOK
#endif

#define HOOK(concern, name, parameters, arguments) \
    EXPORTED int name parameters; \
    int name parameters \
    { \
        int saved = errno; \
        int code = fg_hook_##name arguments; \
        errno = saved; \
        return code; \
    }
#include "hooks.def"
#undef HOOK

#ifndef FRACGPU_SHIM_NVML

#include "procaddress.h"

#define HOOK(concern, name, parameters, arguments) {FG_REAL_##name, (void *)name},
static const struct {
    enum fg_real_id id;
    void *hook;
} routes[] = {
#include "hooks.def"
};
#undef HOOK

void *fg_route(void *real)
{
    if (real == NULL)
        return NULL;
    for (size_t index = 0; index < sizeof(routes) / sizeof(routes[0]); index++) {
        if (fg_real(routes[index].id) == real)
            return routes[index].hook;
    }
    return real;
}

#endif

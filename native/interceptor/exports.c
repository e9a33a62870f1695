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
        fg_type_##name *real = (fg_type_##name *)fg_real(FG_REAL_##name); \
        return real == NULL ? (int)FG_MISSING : real arguments; \
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

#ifdef FRACGPU_SHIM_NVML

#ifdef fg_hook_refused /* the mutant that refuses nothing: arguments in registers are all that these functions have */
#define REFUSED(name) \
    EXPORTED int name(uintptr_t a, uintptr_t b, uintptr_t c, uintptr_t d, uintptr_t e, uintptr_t f); \
    int name(uintptr_t a, uintptr_t b, uintptr_t c, uintptr_t d, uintptr_t e, uintptr_t f) \
    { \
        typedef int function(uintptr_t, uintptr_t, uintptr_t, uintptr_t, uintptr_t, uintptr_t); \
        void *real = fg_real(FG_REAL_##name); \
        return real == NULL ? FG_MISSING : ((function *)real)(a, b, c, d, e, f); \
    }
#else
/* Whatever the arguments are, they are not looked at. */
#define REFUSED(name) \
    EXPORTED int name(void); \
    int name(void) \
    { \
        int saved = errno; \
        int code = fg_real(FG_REAL_##name) == NULL ? FG_MISSING : NVML_ERROR_NO_PERMISSION; \
        errno = saved; \
        return code; \
    }
#endif
#include "nvml_refused.def"
#undef REFUSED

#endif

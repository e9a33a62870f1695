/*
 * real.h: the library behind the shim.
 *
 * It is a dependency of the shim (DT_NEEDED), so the dynamic linker has loaded it already; its functions are looked up
 * on its own handle, one by one, when they are first needed. Nothing of the program's symbol lookup is touched.
 */
#ifndef FRACGPU_INTERCEPTOR_REAL_H
#define FRACGPU_INTERCEPTOR_REAL_H

#ifdef FRACGPU_SHIM_NVML
#include "nvml_types.h"
#define FG_MISSING NVML_ERROR_FUNCTION_NOT_FOUND
#else
#include "cuda_types.h"
#define FG_MISSING CUDA_ERROR_NOT_FOUND
#endif

#define HOOK(concern, name, parameters, arguments) FG_REAL_##name,
#define CALL(name, parameters) FG_REAL_##name,
#define REFUSED(name) FG_REAL_##name,
enum fg_real_id {
#ifdef FRACGPU_SHIM_NVML
#include "nvml_refused.def"
#endif
#include "driver_calls.def"
#include "hooks.def"
    FG_REAL_COUNT
};
#undef HOOK
#undef CALL
#undef REFUSED

#define HOOK(concern, name, parameters, arguments) typedef int fg_type_##name parameters;
#define CALL(name, parameters) typedef int fg_type_##name parameters;
#include "driver_calls.def"
#include "hooks.def"
#undef HOOK
#undef CALL

/* The implementation of each hook, behind the exported function of the same name. */
#define HOOK(concern, name, parameters, arguments) int fg_hook_##name parameters;
#include "hooks.def"
#undef HOOK

/* By function: NULL while it has not been looked up, FG_REAL_MISSING when the library does not have it. */
extern void *fg_real_addresses[FG_REAL_COUNT];
#define FG_REAL_MISSING ((void *)1)

void *fg_real_look_up(enum fg_real_id id);

/* The address of a function of the real library, or NULL when that library does not have it. */
static inline void *fg_real(enum fg_real_id id)
{
    void *address = __atomic_load_n(&fg_real_addresses[id], __ATOMIC_ACQUIRE);
    return __builtin_expect((uintptr_t)address > (uintptr_t)FG_REAL_MISSING, 1) ? address : fg_real_look_up(id);
}

/* Look up everything now, so that no later call has to enter the dynamic linker. */
void fg_real_resolve_all(void);

/* Call it; FG_MISSING is the answer for a library that does not have it. */
#define FG_CALL(name, ...) \
    (fg_real(FG_REAL_##name) == NULL ? (int)FG_MISSING : ((fg_type_##name *)fg_real(FG_REAL_##name))(__VA_ARGS__))

#endif

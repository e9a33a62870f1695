/*
 * real.c: see real.h.
 */
#include "real.h"

#include <dlfcn.h>

#include "source.h"

#define HOOK(concern, name, parameters, arguments) [FG_REAL_##name] = #name,
#define CALL(name, parameters) [FG_REAL_##name] = #name,
#define REFUSED(name) [FG_REAL_##name] = #name,
static const char *const names[FG_REAL_COUNT] = {
#ifdef FRACGPU_SHIM_NVML
#include "nvml_refused.def"
#endif
#include "driver_calls.def"
#include "hooks.def"
};
#undef HOOK
#undef CALL
#undef REFUSED

static void *addresses[FG_REAL_COUNT];
static void *library;

static void *handle(void)
{
    void *opened = __atomic_load_n(&library, __ATOMIC_ACQUIRE);
    char path[FG_PATH_BYTES];
    if (opened == NULL && fg_source_real_library(FRACGPU_LIBRARY, path, sizeof(path))) {
        /* Two threads may both get here: they get the same handle. */
        opened = dlopen(path, RTLD_LAZY | RTLD_NOLOAD);
        __atomic_store_n(&library, opened, __ATOMIC_RELEASE);
    }
    return opened;
}

/* Remembered for a function that the library does not have, so that it is not looked up on every call. */
static char missing;

static void *look_up(enum fg_real_id id)
{
    void *opened = handle();
    if (opened == NULL)
        return NULL;
    void *address = dlsym(opened, names[id]);
    __atomic_store_n(&addresses[id], address == NULL ? &missing : address, __ATOMIC_RELEASE);
    return address;
}

void *fg_real(enum fg_real_id id)
{
    void *address = __atomic_load_n(&addresses[id], __ATOMIC_ACQUIRE);
    if (__builtin_expect(address == NULL, 0))
        return look_up(id);
    return __builtin_expect(address == &missing, 0) ? NULL : address;
}

void fg_real_resolve_all(void)
{
    for (int id = 0; id < FG_REAL_COUNT; id++)
        fg_real((enum fg_real_id)id);
}

/*
 * real.c: see real.h.
 */
#include "real.h"

#include <dlfcn.h>

#include "namespace.h"
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

void *fg_real_addresses[FG_REAL_COUNT];
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

void *fg_real_look_up(enum fg_real_id id)
{
    if (__atomic_load_n(&fg_real_addresses[id], __ATOMIC_ACQUIRE) == FG_REAL_MISSING)
        return NULL;
    void *opened = handle();
    if (opened == NULL)
        return NULL;
    void *address = fg_may_look_up(opened, names[id]) ? dlsym(opened, names[id]) : NULL;
    /* Also that it is not there is remembered, so that it is not looked up on every call. */
    __atomic_store_n(&fg_real_addresses[id], address == NULL ? FG_REAL_MISSING : address, __ATOMIC_RELEASE);
    return address;
}

void fg_real_resolve_all(void)
{
    for (int id = 0; id < FG_REAL_COUNT; id++)
        fg_real((enum fg_real_id)id);
}

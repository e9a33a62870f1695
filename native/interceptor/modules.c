/*
 * modules.c: code that is loaded, and the heaps that kernels ask for: settled by what was taken, never refused.
 *
 * What a module takes stands nowhere. The difference in the GPU's free memory around the call is charged, less what this
 * process charged in other threads. It may hold what other processes took in the same moment: then it is too high until the
 * host's feedback puts it right (residue.h), and without a host until the module goes. Code that is loaded later, at the first
 * use of a kernel, is seen by the host alone.
 */
#include "../limiter/amount.h"
#include "charge.h"
#include "context_charge.h"
#include "devices.h"
#include "real.h"
#include "residue.h"

struct load {
    struct fg_process *process;
    struct fg_group *group;            /* NULL: not counted */
    CUdevice device;
    struct fg_look before;
};

static void begin(struct load *load)
{
    *load = (struct load){.process = fg_process_attached(), .device = -1};
    struct fg_group *group = NULL;
    if (load->process == NULL || FG_CALL(cuCtxGetDevice, &load->device) != CUDA_SUCCESS ||
        fg_group_of_device(load->process, load->device, &group) != CUDA_SUCCESS ||
        !fg_page_limits(&group->members[0]->page).overhead)
        return;
    load->group = group;
    load->before = fg_look_at(load->process, group, load->device);
}

/* Charge what was taken, and remember it with `key`. */
static void settle(struct load *load, uint64_t key, CUresult code)
{
    if (load->group == NULL || code != CUDA_SUCCESS)
        return;
    uint64_t taken = fg_taken_since(load->process, &load->before, load->group, load->device);
    struct fg_value *present = fg_table_find(&load->process->modules, key);
    struct fg_value value = {.bytes = taken, .link = fg_current_context(),
                             .member = load->group->members[0]->index, .kind = FG_OVERHEAD};
    if (taken == 0 || (present == NULL && !fg_table_insert(&load->process->modules, key, &value)))
        return;
    if (present != NULL)
        __atomic_fetch_add(&present->bytes, taken, __ATOMIC_SEQ_CST);
    fg_ledger_charge(&load->group->members[0]->ledger, taken, FG_OVERHEAD);
    fg_residue_restart(load->process, load->group);
}

#define LOAD_HOOK(name, type, parameters, ...) \
    CUresult fg_hook_##name parameters \
    { \
        struct load load; \
        begin(&load); \
        CUresult code = FG_CALL(name, __VA_ARGS__); \
        settle(&load, code == CUDA_SUCCESS ? (uint64_t)(uintptr_t)*handle : 0, code); \
        return code; \
    }

LOAD_HOOK(cuModuleLoad, CUmodule, (CUmodule *handle, const char *path), handle, path)
LOAD_HOOK(cuModuleLoadData, CUmodule, (CUmodule *handle, const void *image), handle, image)
LOAD_HOOK(cuModuleLoadDataEx, CUmodule,
          (CUmodule *handle, const void *image, unsigned int count, int *options, void **values), handle, image, count,
          options, values)
LOAD_HOOK(cuModuleLoadFatBinary, CUmodule, (CUmodule *handle, const void *image), handle, image)
LOAD_HOOK(cuLibraryLoadData, CUlibrary,
          (CUlibrary *handle, const void *code_image, int *jit_options, void **jit_values, unsigned int jit_count,
           int *options, void **values, unsigned int count),
          handle, code_image, jit_options, jit_values, jit_count, options, values, count)
LOAD_HOOK(cuLibraryLoadFromFile, CUlibrary,
          (CUlibrary *handle, const char *path, int *jit_options, void **jit_values, unsigned int jit_count,
           int *options, void **values, unsigned int count),
          handle, path, jit_options, jit_values, jit_count, options, values, count)

/* The heaps of a context go with it, so its handle is their key. Smaller ones are the host's to notice. */
CUresult fg_hook_cuCtxSetLimit(int limit, size_t value)
{
    struct load load;
    begin(&load);
    CUresult code = FG_CALL(cuCtxSetLimit, limit, value);
    settle(&load, fg_current_context(), code);
    return code;
}

static void unloaded(struct fg_process *process, uint64_t key, const struct fg_value *value, CUresult code)
{
    if (code != CUDA_SUCCESS) {
        fg_table_insert(&process->modules, key, value);
        return;
    }
    fg_discharge(&(struct fg_charge){.bytes = value->bytes, .member = value->member, .kind = FG_OVERHEAD});
    fg_residue_restart(process, fg_residue_group(process, value->member));
}

#define UNLOAD_HOOK(name, type) \
    CUresult fg_hook_##name(type handle) \
    { \
        struct fg_process *process = fg_process_attached(); \
        struct fg_value value; \
        uint64_t key = (uint64_t)(uintptr_t)handle; \
        bool known = process != NULL && fg_table_take(&process->modules, key, &value); \
        CUresult code = FG_CALL(name, handle); \
        if (known) \
            unloaded(process, key, &value, code); \
        return code; \
    }

UNLOAD_HOOK(cuModuleUnload, CUmodule)
UNLOAD_HOOK(cuLibraryUnload, CUlibrary)

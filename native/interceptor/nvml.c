/*
 * nvml.c: what monitoring programs see of the GPU's memory.
 *
 * This shim keeps no state and takes no slot: each call reads the config pages and state files. It never calls CUDA,
 * as the CUDA shim never calls NVML: drivers call NVML from inside cuInit.
 */
#include <string.h>

#include "../limiter/amount.h"
#include "../limiter/page.h"
#include "real.h"
#include "source.h"
#include "uuid.h"

/* Add one allocation to the view, if it is of this GPU. False when it can not be read. */
static bool add_allocation(const struct fg_source_name *name, const uint8_t uuid[16], struct fg_view *view, bool *found)
{
    struct fg_page page;
    struct fracgpu_config storage;
    char path[FG_PATH_BYTES];
    uint64_t used = 0;
    /* Left out, as the CUDA shim does: a GPU that no valid page covers shows an error instead of numbers. */
    if (fg_source_open(name, &page, &storage) != FG_OK)
        return true;
    bool readable = true;
    if (memcmp(page.config->device_uuid, uuid, 16) == 0) {
        struct fg_limits limits = fg_page_limits(&page);
        readable = fg_source_state_path(name, path, sizeof(path)) && fg_usage_read(path, uuid, &used) == FG_OK;
        view->limit = fg_add(view->limit, limits.memory_bytes);
        view->used = fg_add(view->used, used);
        view->limited &= limits.limited;
        *found = true;
    }
    fg_page_close(&page);
    return readable;
}

static nvmlReturn_t view_of(nvmlDevice_t device, struct fg_view *view)
{
    char text[NVML_DEVICE_UUID_V2_BUFFER_SIZE];
    uint8_t uuid[16];
    struct fg_source_name names[FG_MEMBERS_MAX];
    bool found = false;
    nvmlReturn_t code = FG_CALL(nvmlDeviceGetUUID, device, text, sizeof(text));
    if (code != NVML_SUCCESS)
        return code;
    if (!fg_uuid_parse(text, strnlen(text, sizeof(text)), uuid))
        return NVML_ERROR_UNKNOWN;
    *view = (struct fg_view){.limit = 0, .used = 0, .limited = true};
    int count = fg_source_names(names);
    for (int index = 0; index < count; index++) {
        if (!add_allocation(&names[index], uuid, view, &found))
            return NVML_ERROR_UNKNOWN;
    }
    return found ? NVML_SUCCESS : NVML_ERROR_UNKNOWN;
}

nvmlReturn_t fg_hook_nvmlDeviceGetMemoryInfo(nvmlDevice_t device, struct fg_nvml_memory *memory)
{
    struct fg_nvml_memory real;
    struct fg_view view;
    nvmlReturn_t code = FG_CALL(nvmlDeviceGetMemoryInfo, device, memory == NULL ? NULL : &real);
    if (code == NVML_SUCCESS)
        code = view_of(device, &view);
    if (code != NVML_SUCCESS)
        return code;
    if (view.limited) {
        real.total = fg_min(view.limit, real.total);
        real.used = fg_min(view.used, real.total);
        real.free = real.total - real.used;
    }
    *memory = real;
    return NVML_SUCCESS;
}

nvmlReturn_t fg_hook_nvmlDeviceGetMemoryInfo_v2(nvmlDevice_t device, struct fg_nvml_memory_v2 *memory)
{
    struct fg_nvml_memory_v2 real;
    struct fg_view view;
    if (memory == NULL)
        return FG_CALL(nvmlDeviceGetMemoryInfo_v2, device, NULL);
    /* Any other version is a struct that this shim could not rewrite. */
    if (memory->version != FG_NVML_MEMORY_V2)
        return NVML_ERROR_ARGUMENT_VERSION_MISMATCH;
    real.version = memory->version;
    nvmlReturn_t code = FG_CALL(nvmlDeviceGetMemoryInfo_v2, device, &real);
    if (code == NVML_SUCCESS)
        code = view_of(device, &view);
    if (code != NVML_SUCCESS)
        return code;
    if (view.limited) {
        real.total = fg_min(view.limit, real.total);
        real.reserved = 0;
        real.used = fg_min(view.used, real.total);
        real.free = real.total - real.used;
    }
    *memory = real;
    return NVML_SUCCESS;
}

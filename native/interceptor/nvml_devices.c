/*
 * nvml_devices.c: which GPUs there are: those of this container's allocations, in the driver's order.
 *
 * A container is normally given the device nodes of its own GPUs, and then nothing is left out here. A privileged one
 * has the nodes of all. Handles are the driver's own. NVML's order is that of the PCI bus; CUDA's is the same with
 * CUDA_DEVICE_ORDER=PCI_BUS_ID, as on any machine.
 *
 * An allocation whose page can not be read does not say of which GPU it is. Then none is left out: the GPU would be
 * taken for one that is not there, and not for one that is closed.
 */
#include <string.h>

#include "nvml_share.h"
#include "real.h"
#include "source.h"

struct allocated {
    uint8_t uuids[FG_MEMBERS_MAX][16];
    int count;                         /* -1: not all pages can be read */
};

static void read_allocated(struct allocated *allocated)
{
    struct fg_source_name names[FG_MEMBERS_MAX];
    struct fg_page page;
    struct fracgpu_config storage;
    int count = fg_source_names(names);
    allocated->count = count;
    for (int index = 0; index < count; index++) {
        if (fg_source_open(&names[index], &page, &storage) != FG_OK) {
            allocated->count = -1;
            return;
        }
        memcpy(allocated->uuids[index], page.config->device_uuid, 16);
        fg_page_close(&page);
    }
}

/* A GPU that can not be asked for its name, since it is lost, is shown with the driver's error. So is a MIG device, whose
 * name is not a GPU's. */
static bool is_shown(const struct allocated *allocated, nvmlDevice_t device)
{
    char text[NVML_DEVICE_UUID_V2_BUFFER_SIZE];
    uint8_t uuid[16];
    if (allocated->count < 0 || FG_CALL(nvmlDeviceGetUUID, device, text, sizeof(text)) != NVML_SUCCESS ||
        !fg_nvml_uuid(text, uuid))
        return true;
    for (int index = 0; index < allocated->count; index++) {
        if (memcmp(allocated->uuids[index], uuid, 16) == 0)
            return true;
    }
    return false;
}

typedef int count_function(unsigned int *count);
typedef int handle_function(unsigned int index, nvmlDevice_t *device);

/* How many of the first `count` devices are shown. */
static unsigned int shown_below(const struct allocated *allocated, handle_function *get, unsigned int count)
{
    unsigned int shown = 0;
    for (unsigned int index = 0; index < count; index++) {
        nvmlDevice_t device;
        shown += get(index, &device) != NVML_SUCCESS || is_shown(allocated, device);
    }
    return shown;
}

static nvmlReturn_t count_shown(count_function *ask, handle_function *get, unsigned int *count)
{
    struct allocated allocated;
    nvmlReturn_t code = ask(count);
    if (code != NVML_SUCCESS)
        return code;
    read_allocated(&allocated);
    *count = shown_below(&allocated, get, *count);
    return NVML_SUCCESS;
}

/* The device that is shown as the `wanted`th. */
static nvmlReturn_t get_shown(count_function *ask, handle_function *get, unsigned int wanted, nvmlDevice_t *device)
{
    struct allocated allocated;
    unsigned int count;
    nvmlReturn_t code = device == NULL ? get(wanted, NULL) : ask(&count);
    if (code != NVML_SUCCESS)
        return code;
    read_allocated(&allocated);
    for (unsigned int index = 0; index < count; index++) {
        nvmlDevice_t found;
        code = get(index, &found);
        if (code == NVML_SUCCESS && !is_shown(&allocated, found))
            continue;
        if (wanted-- != 0)
            continue;
        if (code == NVML_SUCCESS)
            *device = found;
        return code;
    }
    return NVML_ERROR_INVALID_ARGUMENT;
}

#define REAL(name) ((fg_type_##name *)fg_real(FG_REAL_##name))

#define ENUMERATE(suffix) \
    nvmlReturn_t fg_hook_nvmlDeviceGetCount##suffix(unsigned int *count) \
    { \
        if (REAL(nvmlDeviceGetCount##suffix) == NULL || REAL(nvmlDeviceGetHandleByIndex##suffix) == NULL) \
            return FG_MISSING; \
        return count_shown(REAL(nvmlDeviceGetCount##suffix), REAL(nvmlDeviceGetHandleByIndex##suffix), count); \
    } \
    nvmlReturn_t fg_hook_nvmlDeviceGetHandleByIndex##suffix(unsigned int index, nvmlDevice_t *device) \
    { \
        if (REAL(nvmlDeviceGetCount##suffix) == NULL || REAL(nvmlDeviceGetHandleByIndex##suffix) == NULL) \
            return FG_MISSING; \
        return get_shown(REAL(nvmlDeviceGetCount##suffix), REAL(nvmlDeviceGetHandleByIndex##suffix), index, device); \
    }

ENUMERATE()
ENUMERATE(_v2)

nvmlReturn_t fg_hook_nvmlDeviceGetIndex(nvmlDevice_t device, unsigned int *index)
{
    struct allocated allocated;
    unsigned int real;
    nvmlReturn_t code = FG_CALL(nvmlDeviceGetIndex, device, index == NULL ? NULL : &real);
    if (code != NVML_SUCCESS)
        return code;
    read_allocated(&allocated);
    if (!is_shown(&allocated, device))
        return NVML_ERROR_NOT_FOUND;
    if (REAL(nvmlDeviceGetHandleByIndex_v2) != NULL)
        real = shown_below(&allocated, REAL(nvmlDeviceGetHandleByIndex_v2), real);
    *index = real;
    return NVML_SUCCESS;
}

/* What the driver found by name, if it is one of ours. */
static nvmlReturn_t give_shown(nvmlReturn_t code, nvmlDevice_t found, nvmlDevice_t *device)
{
    struct allocated allocated;
    if (code != NVML_SUCCESS)
        return code;
    read_allocated(&allocated);
    if (!is_shown(&allocated, found))
        return NVML_ERROR_NOT_FOUND;
    *device = found;
    return NVML_SUCCESS;
}

#define BY_NAME(name, type) \
    nvmlReturn_t fg_hook_##name(const type *key, nvmlDevice_t *device) \
    { \
        nvmlDevice_t found = NULL; \
        nvmlReturn_t code = FG_CALL(name, key, device == NULL ? NULL : &found); \
        return give_shown(code, found, device); \
    }

BY_NAME(nvmlDeviceGetHandleByUUID, char)
BY_NAME(nvmlDeviceGetHandleByUUIDV, void)
BY_NAME(nvmlDeviceGetHandleByPciBusId, char)
BY_NAME(nvmlDeviceGetHandleByPciBusId_v2, char)
BY_NAME(nvmlDeviceGetHandleBySerial, char)

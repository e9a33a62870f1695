/*
 * nvml.c: what monitoring programs see of the GPU's memory.
 *
 * This shim keeps no state and takes no slot: each call reads the config pages and state files. It never calls CUDA,
 * as the CUDA shim never calls NVML: drivers call NVML from inside cuInit.
 */
#include "../limiter/amount.h"
#include "nvml_share.h"
#include "real.h"

nvmlReturn_t fg_hook_nvmlDeviceGetMemoryInfo(nvmlDevice_t device, struct fg_nvml_memory *memory)
{
    struct fg_nvml_memory real;
    struct fg_nvml_share share;
    nvmlReturn_t code = FG_CALL(nvmlDeviceGetMemoryInfo, device, memory == NULL ? NULL : &real);
    if (code == NVML_SUCCESS)
        code = fg_nvml_share(device, &share);
    if (code != NVML_SUCCESS)
        return code;
    if (share.view.limited) {
        real.total = fg_min(share.view.limit, real.total);
        real.used = fg_min(share.view.used, real.total);
        real.free = real.total - real.used;
    }
    *memory = real;
    return NVML_SUCCESS;
}

nvmlReturn_t fg_hook_nvmlDeviceGetMemoryInfo_v2(nvmlDevice_t device, struct fg_nvml_memory_v2 *memory)
{
    struct fg_nvml_memory_v2 real;
    struct fg_nvml_share share;
    if (memory == NULL)
        return FG_CALL(nvmlDeviceGetMemoryInfo_v2, device, NULL);
    /* Any other version is a struct that this shim could not rewrite. */
    if (memory->version != FG_NVML_MEMORY_V2)
        return NVML_ERROR_ARGUMENT_VERSION_MISMATCH;
    real.version = memory->version;
    nvmlReturn_t code = FG_CALL(nvmlDeviceGetMemoryInfo_v2, device, &real);
    if (code == NVML_SUCCESS)
        code = fg_nvml_share(device, &share);
    if (code != NVML_SUCCESS)
        return code;
    if (share.view.limited) {
        real.total = fg_min(share.view.limit, real.total);
        real.reserved = 0;
        real.used = fg_min(share.view.used, real.total);
        real.free = real.total - real.used;
    }
    *memory = real;
    return NVML_SUCCESS;
}

/* The window through which processors see device memory is the whole card's; of what is mapped, no more than this
 * container has can be its own. */
nvmlReturn_t fg_hook_nvmlDeviceGetBAR1MemoryInfo(nvmlDevice_t device, struct fg_nvml_bar1 *memory)
{
    struct fg_nvml_bar1 real;
    struct fg_nvml_share share;
    nvmlReturn_t code = FG_CALL(nvmlDeviceGetBAR1MemoryInfo, device, memory == NULL ? NULL : &real);
    if (code == NVML_SUCCESS)
        code = fg_nvml_share(device, &share);
    if (code != NVML_SUCCESS)
        return code;
    if (share.view.limited) {
        real.used = fg_min(real.used, share.view.used);
        real.free = real.total - real.used;
    }
    *memory = real;
    return NVML_SUCCESS;
}

/* A driver that limits this cgroup itself knows best. One that does not, or is too old to, leaves it to the page. */
static bool is_limited_by_driver(nvmlReturn_t code)
{
    return code != NVML_ERROR_NOT_SUPPORTED && code != NVML_ERROR_NOT_FOUND && code != NVML_ERROR_FUNCTION_NOT_FOUND;
}

nvmlReturn_t fg_hook_nvmlDeviceGetMemoryLimits_v1(nvmlDevice_t device, struct fg_nvml_memory_limits *limits)
{
    struct fg_nvml_share share;
    nvmlReturn_t code = FG_CALL(nvmlDeviceGetMemoryLimits_v1, device, limits);
    if (is_limited_by_driver(code))
        return code;
    if (limits == NULL)
        return NVML_ERROR_INVALID_ARGUMENT;
    nvmlReturn_t readable = fg_nvml_share(device, &share);
    if (readable != NVML_SUCCESS)
        return readable;
    if (!share.view.limited)
        return code;
    limits->soft_bytes = 0;
    limits->hard_bytes = share.view.limit;
    limits->used_bytes = share.view.used;
    return NVML_SUCCESS;
}

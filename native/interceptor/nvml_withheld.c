/*
 * nvml_withheld.c: figures about the whole device that nobody could tell apart: "not supported".
 *
 * How busy the video engines are and whose sessions they serve, and the hardware's performance metrics: all of it is the
 * sum over everybody on the GPU. A container without a limit has the GPU to itself, and gets the driver's answer.
 */
#include "nvml_share.h"
#include "real.h"

/* `code` is the driver's. */
static nvmlReturn_t withhold(nvmlReturn_t code, nvmlDevice_t device)
{
    struct fg_nvml_share share;
    if (code == NVML_SUCCESS)
        code = fg_nvml_share(device, &share);
    if (code != NVML_SUCCESS)
        return code;
    return share.view.limited ? NVML_ERROR_NOT_SUPPORTED : NVML_SUCCESS;
}

#define ENGINE(name) \
    nvmlReturn_t fg_hook_##name(nvmlDevice_t device, unsigned int *percent, unsigned int *period_us) \
    { \
        unsigned int real_percent, real_period; \
        nvmlReturn_t code = \
            FG_CALL(name, device, percent == NULL ? NULL : &real_percent, period_us == NULL ? NULL : &real_period); \
        code = withhold(code, device); \
        if (code == NVML_SUCCESS) { \
            *percent = real_percent; \
            *period_us = real_period; \
        } \
        return code; \
    }

ENGINE(nvmlDeviceGetEncoderUtilization)
ENGINE(nvmlDeviceGetDecoderUtilization)
ENGINE(nvmlDeviceGetJpgUtilization)
ENGINE(nvmlDeviceGetOfaUtilization)

/* The rest is asked of the driver only where its answer is the container's own: what is in its structs is not looked at.
 * A handle that is none is found out on the way to the share. */
static bool is_withheld(nvmlDevice_t device, nvmlReturn_t *code)
{
    *code = withhold(NVML_SUCCESS, device);
    return *code != NVML_SUCCESS;
}

#define WITHHELD(name, parameters, ...) \
    nvmlReturn_t fg_hook_##name parameters \
    { \
        nvmlReturn_t code; \
        if (is_withheld(device, &code)) \
            return code; \
        return FG_CALL(name, __VA_ARGS__); \
    }

WITHHELD(nvmlDeviceGetEncoderStats,
         (nvmlDevice_t device, unsigned int *sessions, unsigned int *fps, unsigned int *latency_us), device, sessions, fps,
         latency_us)
WITHHELD(nvmlDeviceGetEncoderSessions, (nvmlDevice_t device, unsigned int *count, void *sessions), device, count, sessions)
WITHHELD(nvmlDeviceGetFBCStats, (nvmlDevice_t device, void *stats), device, stats)
WITHHELD(nvmlDeviceGetFBCSessions, (nvmlDevice_t device, unsigned int *count, void *sessions), device, count, sessions)
WITHHELD(nvmlGpmSampleGet, (nvmlDevice_t device, void *sample), device, sample)

/* Asked first by whoever wants such samples. */
nvmlReturn_t fg_hook_nvmlGpmQueryDeviceSupport(nvmlDevice_t device, struct fg_nvml_gpm_support *support)
{
    nvmlReturn_t code = FG_CALL(nvmlGpmQueryDeviceSupport, device, support);
    if (code != NVML_SUCCESS)
        return code;
    code = withhold(code, device);
    if (code == NVML_ERROR_NOT_SUPPORTED) {
        support->supported = 0;
        return NVML_SUCCESS;
    }
    return code;
}

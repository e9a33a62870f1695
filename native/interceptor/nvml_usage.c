/*
 * nvml_usage.c: how busy a GPU is, by this container's processes.
 *
 * The driver counts everybody. What of it is the container's own only the host can tell, and it publishes that beside
 * the config page. Shown is the share of the container's share (or of the device, if the page says so). Where the host
 * has not published for some seconds, or never does, the answer is "not supported", as on a MIG device, and tools
 * print N/A: the device's figure would be somebody else's, and zero would be a lie.
 */
#include <time.h>

#include "../limiter/amount.h"
#include "../limiter/pause.h"
#include "nvml_usage.h"
#include "real.h"

/* A caller that hands back the time of the last sample does not get it again, though the clocks that it was made from
 * do not run quite alike. Samples are about a second apart. */
#define SAMPLE_SLACK_US 1000u

unsigned int fg_nvml_percent(const struct fg_nvml_share *share, uint32_t basis_points)
{
    uint64_t whole = share->of_device ? 100 : share->cores_percent;
    return (unsigned int)fg_min((basis_points + whole / 2) / whole, 100);
}

uint64_t fg_nvml_measured_us(const struct fg_nvml_share *share)
{
    uint64_t age_ns = fg_subtract(fg_clock_ns(CLOCK_MONOTONIC), share->measured_ns);
    return fg_subtract(fg_clock_ns(CLOCK_REALTIME), age_ns) / 1000;
}

bool fg_nvml_is_seen(const struct fg_nvml_share *share, unsigned long long last_seen_us)
{
    return fg_nvml_measured_us(share) <= fg_add(last_seen_us, last_seen_us == 0 ? 0 : SAMPLE_SLACK_US);
}

/* The share behind a driver's figure: `code` is the driver's, and `*limited` says whose figure is to be shown. */
static nvmlReturn_t measured_share(nvmlReturn_t code, nvmlDevice_t device, struct fg_nvml_share *share, bool *limited)
{
    *limited = false;
    if (code == NVML_SUCCESS)
        code = fg_nvml_share(device, share);
    if (code != NVML_SUCCESS)
        return code;
    *limited = share->view.limited;
    return *limited && !share->measured ? NVML_ERROR_NOT_SUPPORTED : NVML_SUCCESS;
}

nvmlReturn_t fg_hook_nvmlDeviceGetUtilizationRates(nvmlDevice_t device, struct fg_nvml_utilization *rates)
{
    struct fg_nvml_utilization real;
    struct fg_nvml_share share;
    bool limited;
    nvmlReturn_t code = FG_CALL(nvmlDeviceGetUtilizationRates, device, rates == NULL ? NULL : &real);
    code = measured_share(code, device, &share, &limited);
    if (code != NVML_SUCCESS)
        return code;
    if (limited)
        real = (struct fg_nvml_utilization){.gpu = fg_nvml_percent(&share, share.sm_bp),
                                            .memory = fg_nvml_percent(&share, share.memory_bp)};
    *rates = real;
    return NVML_SUCCESS;
}

/* The same figures by another way; video engines and the bus are everybody's. */
nvmlReturn_t fg_hook_nvmlDeviceGetDynamicPstatesInfo(nvmlDevice_t device, struct fg_nvml_dynamic_pstates *pstates)
{
    struct fg_nvml_dynamic_pstates real;
    struct fg_nvml_share share;
    bool limited;
    nvmlReturn_t code = FG_CALL(nvmlDeviceGetDynamicPstatesInfo, device, pstates == NULL ? NULL : &real);
    code = measured_share(code, device, &share, &limited);
    if (code != NVML_SUCCESS)
        return code;
    if (limited) {
        for (int domain = 2; domain < FG_NVML_PSTATE_DOMAINS; domain++)
            real.domains[domain] = (struct fg_nvml_pstate_domain){.present = 0};
        real.domains[0].percent = fg_nvml_percent(&share, share.sm_bp);
        real.domains[1].percent = fg_nvml_percent(&share, share.memory_bp);
    }
    *pstates = real;
    return NVML_SUCCESS;
}

static bool is_sample_of_processes(unsigned int type)
{
    return type == FG_NVML_SAMPLES_GPU || type == FG_NVML_SAMPLES_MEMORY;
}

/* Power and clocks are the card's; how busy the video engines are is nobody's own. */
static bool is_sample_of_card(unsigned int type)
{
    return type == FG_NVML_SAMPLES_POWER || type == FG_NVML_SAMPLES_CLOCK || type == FG_NVML_SAMPLES_MEMORY_CLOCK ||
           type == FG_NVML_SAMPLES_MODULE_POWER;
}

nvmlReturn_t fg_hook_nvmlDeviceGetSamples(nvmlDevice_t device, unsigned int type, unsigned long long last_seen_us,
                                          unsigned int *value_type, unsigned int *count,
                                          struct fg_nvml_sample *samples)
{
    struct fg_nvml_share share;
    bool limited;
    unsigned int real_type, real_count = 0;
    if (is_sample_of_card(type) || value_type == NULL || count == NULL || (samples != NULL && *count == 0))
        return FG_CALL(nvmlDeviceGetSamples, device, type, last_seen_us, value_type, count, samples);
    nvmlReturn_t code = FG_CALL(nvmlDeviceGetSamples, device, type, 0, &real_type, &real_count, NULL);
    code = measured_share(code == NVML_ERROR_NOT_FOUND ? NVML_SUCCESS : code, device, &share, &limited);
    if (!limited && code == NVML_SUCCESS)
        return FG_CALL(nvmlDeviceGetSamples, device, type, last_seen_us, value_type, count, samples);
    if (code != NVML_SUCCESS)
        return code;
    if (!is_sample_of_processes(type))
        return NVML_ERROR_NOT_SUPPORTED;
    if (fg_nvml_is_seen(&share, last_seen_us))
        return NVML_ERROR_NOT_FOUND;
    *value_type = FG_NVML_VALUE_UNSIGNED;
    *count = 1;
    if (samples != NULL) {
        uint32_t basis_points = type == FG_NVML_SAMPLES_GPU ? share.sm_bp : share.memory_bp;
        samples[0] = (struct fg_nvml_sample){.time_us = fg_nvml_measured_us(&share),
                                             .value = fg_nvml_percent(&share, basis_points)};
    }
    return NVML_SUCCESS;
}

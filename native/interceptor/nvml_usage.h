/*
 * nvml_usage.h: how a share of the GPU's time is stated.
 */
#ifndef FRACGPU_INTERCEPTOR_NVML_USAGE_H
#define FRACGPU_INTERCEPTOR_NVML_USAGE_H

#include "nvml_share.h"

/* As how many percent these basis points of the device are shown. */
unsigned int fg_nvml_percent(const struct fg_nvml_share *share, uint32_t basis_points);

/* When the figures were measured, as NVML states times: in microseconds since 1970. */
uint64_t fg_nvml_measured_us(const struct fg_nvml_share *share);

/* Whether a caller that hands back the time of its last sample has seen these figures. */
bool fg_nvml_is_seen(const struct fg_nvml_share *share, unsigned long long last_seen_us);

#endif

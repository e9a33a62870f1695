/*
 * nvml_share.h: what this container has of a GPU: its limit, its processes, and how busy they keep the GPU.
 *
 * Nothing is kept between calls: each one reads the config pages and state files of all allocations. Whoever reports a
 * figure asks the driver first, so that its checks and its errors stay what they are, and then here.
 */
#ifndef FRACGPU_INTERCEPTOR_NVML_SHARE_H
#define FRACGPU_INTERCEPTOR_NVML_SHARE_H

#include "../limiter/group.h"
#include "nvml_types.h"

/* A process of this container, under its id in the caller's pid namespace. */
struct fg_nvml_process {
    uint32_t pid;
    uint32_t sm_bp;                    /* of the device, as the host measured it; 0 where it did not */
    uint32_t memory_bp;
    uint64_t used_bytes;
};

/* Those that hold memory, ordered as they came. Processes of other pid namespaces have no id that could be shown. */
struct fg_nvml_processes {
    struct fg_nvml_process *entries;
    uint32_t count;
    uint64_t pid_namespace_inode;      /* the caller's */
};

struct fg_nvml_share {
    struct fg_view view;               /* not limited: what the driver shows is shown */
    bool measured;                     /* the host has published the rest, for each allocation of the GPU */
    bool of_device;                    /* utilization is shown in percent of the device, not of the share */
    uint32_t sm_bp;                    /* of the device, by all processes of these allocations */
    uint32_t memory_bp;
    uint32_t cores_percent;            /* the share of the device's time, 100 without a cap */
    uint64_t measured_ns;              /* CLOCK_MONOTONIC */
};

/* NVML_ERROR_UNKNOWN where CUDA would say CUDA_ERROR_SYSTEM_NOT_READY: no usable allocation covers the GPU. */
nvmlReturn_t fg_nvml_share(nvmlDevice_t device, struct fg_nvml_share *share);

/* The same with its processes, which fg_nvml_processes_end gives back. */
nvmlReturn_t fg_nvml_share_processes(nvmlDevice_t device, struct fg_nvml_share *share,
                                     struct fg_nvml_processes *processes);
void fg_nvml_processes_end(struct fg_nvml_processes *processes);

/* NULL: none of this container. */
const struct fg_nvml_process *fg_nvml_find(const struct fg_nvml_processes *processes, uint32_t pid);

/* The UUID of a whole GPU; false for what has another kind of name. */
bool fg_nvml_uuid(const char *text, uint8_t uuid[16]);

#endif

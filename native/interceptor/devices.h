/*
 * devices.h: which allocations a CUDA device, context or stream belongs to.
 *
 * Always by UUID: CUDA's numbering depends on CUDA_VISIBLE_DEVICES and on the order of the bus, and is no identity.
 * Each function answers CUDA_SUCCESS, the driver's own error, or CUDA_ERROR_SYSTEM_NOT_READY for a GPU that no valid
 * config page covers.
 */
#ifndef FRACGPU_INTERCEPTOR_DEVICES_H
#define FRACGPU_INTERCEPTOR_DEVICES_H

#include "process.h"

CUresult fg_group_of_device(struct fg_process *process, CUdevice device, struct fg_group **group);
CUresult fg_group_of_context(struct fg_process *process, struct fg_group **group);

/* The device that work on `stream` runs on. */
CUresult fg_device_of_stream(CUstream stream, CUdevice *device);

#endif

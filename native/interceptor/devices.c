/*
 * devices.c: see devices.h.
 */
#include "devices.h"

#include <string.h>

#include "real.h"

/* Stream handles that stand for the current context's default streams: 0, CU_STREAM_LEGACY, CU_STREAM_PER_THREAD. */
#define HIGHEST_DEFAULT_STREAM 2u

static CUresult find_group(struct fg_process *process, CUdevice device, struct fg_group **group)
{
    struct fg_uuid uuid;
    CUresult code = FG_CALL(cuDeviceGetUuid_v2, &uuid, device);
    if (code == CUDA_ERROR_NOT_FOUND)
        code = FG_CALL(cuDeviceGetUuid, &uuid, device);
    if (code != CUDA_SUCCESS)
        return code;
    for (uint32_t index = 0; index < process->group_count; index++) {
        if (memcmp(process->groups[index].uuid, uuid.bytes, sizeof(uuid.bytes)) != 0)
            continue;
        *group = &process->groups[index];
        if (device >= 0 && device < FG_DEVICES_MAX)
            __atomic_store_n(&process->group_of_device[device], (uint8_t)(index + 1), __ATOMIC_RELEASE);
        return CUDA_SUCCESS;
    }
    return CUDA_ERROR_SYSTEM_NOT_READY;
}

CUresult fg_group_of_device(struct fg_process *process, CUdevice device, struct fg_group **group)
{
    if (device >= 0 && device < FG_DEVICES_MAX) {
        uint8_t known = __atomic_load_n(&process->group_of_device[device], __ATOMIC_ACQUIRE);
        if (__builtin_expect(known != 0, 1)) {
            *group = &process->groups[known - 1];
            return CUDA_SUCCESS;
        }
    }
    return find_group(process, device, group);
}

CUresult fg_group_of_context(struct fg_process *process, struct fg_group **group)
{
    CUdevice device = -1;
    CUresult code = FG_CALL(cuCtxGetDevice, &device);
    return code == CUDA_SUCCESS ? fg_group_of_device(process, device, group) : code;
}

CUresult fg_device_of_stream(CUstream stream, CUdevice *device)
{
    if ((uintptr_t)stream <= HIGHEST_DEFAULT_STREAM)
        return FG_CALL(cuCtxGetDevice, device);
    if (FG_CALL(cuStreamGetDevice, stream, device) == CUDA_SUCCESS)
        return CUDA_SUCCESS;
    /* Drivers before CUDA 12.8: through the stream's context. */
    CUcontext context = NULL;
    CUcontext popped;
    CUresult code = FG_CALL(cuStreamGetCtx, stream, &context);
    if (code == CUDA_SUCCESS)
        code = FG_CALL(cuCtxPushCurrent_v2, context);
    if (code != CUDA_SUCCESS)
        return code;
    code = FG_CALL(cuCtxGetDevice, device);
    FG_CALL(cuCtxPopCurrent_v2, &popped);
    return code;
}

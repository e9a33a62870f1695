/*
 * report.c: what a program sees of its GPU's memory.
 *
 * The driver is always asked first: its checks and its errors stay what they are, and a view never shows more than is
 * physically there.
 */
#include <limits.h>

#include "../limiter/amount.h"
#include "devices.h"
#include "pools.h"
#include "real.h"
#include "residue.h"
#include "sharing.h"

static CUresult view_of_device(CUdevice device, struct fg_view *view)
{
    struct fg_process *process = fg_process();
    struct fg_group *group;
    if (process == NULL)
        return CUDA_ERROR_SYSTEM_NOT_READY;
    CUresult code = fg_group_of_device(process, device, &group);
    if (code == CUDA_SUCCESS) {
        fg_residue_check(process, group);
        *view = fg_group_view(group);
    }
    return code;
}

/* The same two numbers for both ABIs; `highest` is the largest value that the ABI can state. */
static CUresult limited_info(uint64_t *free_bytes, uint64_t *total_bytes, uint64_t highest)
{
    CUdevice device = -1;
    struct fg_view view;
    struct fg_process *process = fg_process_attached();
    fg_pools_settle();
    if (process != NULL)
        fg_sharing_settle(process);
    CUresult code = FG_CALL(cuCtxGetDevice, &device);
    if (code == CUDA_SUCCESS)
        code = view_of_device(device, &view);
    if (code != CUDA_SUCCESS || !view.limited)
        return code;
    uint64_t total = fg_min(view.limit, *total_bytes);
    /* 32 bits may be too few for the card's own total; then the limit is the better number. */
    if (*total_bytes >= highest)
        total = fg_min(view.limit, highest);
    *total_bytes = total;
    *free_bytes = fg_min(fg_subtract(view.limit, view.used), *free_bytes);
    *free_bytes = fg_min(*free_bytes, total);
    return CUDA_SUCCESS;
}

CUresult fg_hook_cuMemGetInfo_v2(size_t *free_bytes, size_t *total_bytes)
{
    size_t real_free = 0, real_total = 0;
    CUresult code = FG_CALL(cuMemGetInfo_v2, free_bytes == NULL ? NULL : &real_free,
                            total_bytes == NULL ? NULL : &real_total);
    if (code != CUDA_SUCCESS)
        return code;
    uint64_t shown_free = real_free;
    uint64_t shown_total = total_bytes == NULL ? UINT64_MAX : real_total;
    code = limited_info(&shown_free, &shown_total, UINT64_MAX);
    if (code != CUDA_SUCCESS)
        return code;
    if (free_bytes != NULL)
        *free_bytes = shown_free;
    if (total_bytes != NULL)
        *total_bytes = shown_total;
    return CUDA_SUCCESS;
}

CUresult fg_hook_cuMemGetInfo(unsigned int *free_bytes, unsigned int *total_bytes)
{
    unsigned int real_free = 0, real_total = 0;
    CUresult code =
        FG_CALL(cuMemGetInfo, free_bytes == NULL ? NULL : &real_free, total_bytes == NULL ? NULL : &real_total);
    if (code != CUDA_SUCCESS)
        return code;
    uint64_t shown_free = real_free;
    uint64_t shown_total = total_bytes == NULL ? UINT_MAX : real_total;
    code = limited_info(&shown_free, &shown_total, UINT_MAX);
    if (code != CUDA_SUCCESS)
        return code;
    if (free_bytes != NULL)
        *free_bytes = (unsigned int)shown_free;
    if (total_bytes != NULL)
        *total_bytes = (unsigned int)shown_total;
    return CUDA_SUCCESS;
}

CUresult fg_hook_cuDeviceTotalMem_v2(size_t *bytes, CUdevice device)
{
    size_t real = 0;
    struct fg_view view;
    CUresult code = FG_CALL(cuDeviceTotalMem_v2, bytes == NULL ? NULL : &real, device);
    if (code == CUDA_SUCCESS)
        code = view_of_device(device, &view);
    if (code == CUDA_SUCCESS)
        *bytes = view.limited ? fg_min(view.limit, real) : real;
    return code;
}

CUresult fg_hook_cuDeviceTotalMem(unsigned int *bytes, CUdevice device)
{
    unsigned int real = 0;
    struct fg_view view;
    CUresult code = FG_CALL(cuDeviceTotalMem, bytes == NULL ? NULL : &real, device);
    if (code == CUDA_SUCCESS)
        code = view_of_device(device, &view);
    if (code == CUDA_SUCCESS)
        *bytes = view.limited ? (unsigned int)fg_min(view.limit, real) : real;
    return code;
}

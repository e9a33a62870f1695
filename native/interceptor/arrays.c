/*
 * arrays.c: CUDA arrays and mipmapped arrays.
 *
 * How much an array takes depends on the GPU's layout of images. The driver says it of arrays with deferred mapping only,
 * which take nothing: so such a twin is made of what the program wants, asked, and destroyed again, and what it says is
 * reserved before the driver is called. Where there is no answer the estimate of array_size.h is.
 *
 * Arrays that the program maps memory onto, sparse ones and those with deferred mapping, cost nothing themselves: see
 * array_tiles.c. Levels of a mipmap, planes and arrays of external memory are in no table, so no free of theirs gives
 * back what somebody else is charged for.
 */
#include "array_size.h"
#include "array_tiles.h"
#include "capture_mode.h"
#include "charge.h"
#include "real.h"

#define MAPPABLE (CUDA_ARRAY3D_SPARSE | CUDA_ARRAY3D_DEFERRED_MAPPING)

/* What a program wants: `levels` is 0 for an array, else it is a mipmapped one. */
struct request {
    struct fg_array_shape shape;
    unsigned int levels;
    bool mipmapped;
};

static CUresult requirements_of_array(const struct fg_array_shape *shape, CUdevice device,
                                      struct fg_array_requirements *needed)
{
    CUarray twin;
    CUresult code = FG_CALL(cuArray3DCreate_v2, &twin, shape);
    if (code != CUDA_SUCCESS)
        return code;
    code = FG_CALL(cuArrayGetMemoryRequirements, needed, twin, device);
    FG_CALL(cuArrayDestroy, twin);
    return code;
}

static CUresult requirements_of_mipmap(const struct fg_array_shape *shape, unsigned int levels, CUdevice device,
                                       struct fg_array_requirements *needed)
{
    CUmipmappedArray twin;
    CUresult code = FG_CALL(cuMipmappedArrayCreate, &twin, shape, levels);
    if (code != CUDA_SUCCESS)
        return code;
    code = FG_CALL(cuMipmappedArrayGetMemoryRequirements, needed, twin, device);
    FG_CALL(cuMipmappedArrayDestroy, twin);
    return code;
}

/* What the driver says of the twin; 0 when it has no answer. */
static uint64_t needed_bytes(const struct request *request)
{
    struct fg_array_requirements needed = {.bytes = 0};
    struct fg_array_shape shape = request->shape;
    CUdevice device = -1;
    /* What has one dimension can not be mapped, and a driver before CUDA 11.6 can not be asked. */
    if (shape.height == 0 || fg_real(FG_REAL_cuArrayGetMemoryRequirements) == NULL)
        return 0;
    shape.flags |= CUDA_ARRAY3D_DEFERRED_MAPPING;
    int mode = fg_capture_relax();
    CUresult code = FG_CALL(cuCtxGetDevice, &device);
    if (code == CUDA_SUCCESS && request->mipmapped)
        code = requirements_of_mipmap(&shape, request->levels, device, &needed);
    else if (code == CUDA_SUCCESS)
        code = requirements_of_array(&shape, device, &needed);
    fg_capture_restore(mode);
    return code == CUDA_SUCCESS ? needed.bytes : 0;
}

static bool mappable(const struct request *request)
{
    return (request->shape.flags & MAPPABLE) != 0;
}

static CUresult reserve(const struct request *request, struct fg_charge *charge)
{
    if (mappable(request))
        return fg_process() == NULL ? CUDA_ERROR_SYSTEM_NOT_READY : CUDA_SUCCESS;
    uint64_t bytes = needed_bytes(request);
    if (bytes == 0)
        bytes = fg_array_estimate(&request->shape, request->mipmapped ? request->levels : 1);
    return fg_charge_current(fg_granted(bytes), FG_PLAIN, charge);
}

static bool remember(const struct request *request, uintptr_t handle, const struct fg_charge *charge)
{
    struct fg_process *process = fg_process_attached();
    if (process == NULL)
        return false;
    struct fg_table *table = request->mipmapped ? &process->mipmaps : &process->arrays;
    struct fg_value value = {
        .bytes = charge->bytes, .link = fg_current_context(), .member = charge->member, .kind = charge->kind};
    if (mappable(request))
        value = fg_tiles_none(process);
    return fg_table_insert(table, handle, &value);
}

/* After the driver's answer: keep the charge of the array, or take it back. An array without a charge that can not be
 * remembered does no harm: what is mapped onto it stays charged. */
static CUresult conclude(CUresult code, const struct request *request, uintptr_t handle, const struct fg_charge *charge)
{
    if (code == CUDA_SUCCESS && !remember(request, handle, charge) && !mappable(request)) {
        if (request->mipmapped)
            FG_CALL(cuMipmappedArrayDestroy, (CUmipmappedArray)handle);
        else
            FG_CALL(cuArrayDestroy, (CUarray)handle);
        code = CUDA_ERROR_OUT_OF_MEMORY;
    }
    if (code != CUDA_SUCCESS)
        fg_discharge(charge);
    return code;
}

/* All spellings differ in the descriptor and in the call, which is given `target` in the place of the program's
 * variable. */
#define CREATE_HOOK(name, handle_type, parameters, descriptor, wanted, ...) \
    CUresult fg_hook_##name parameters \
    { \
        struct fg_charge charge = {.bytes = 0, .member = 0, .kind = FG_PLAIN}; \
        handle_type result = NULL; \
        handle_type *target = handle == NULL ? NULL : &result; \
        if ((descriptor) == NULL) \
            return FG_CALL(name, __VA_ARGS__); \
        struct request request = wanted; \
        CUresult code = reserve(&request, &charge); \
        if (code != CUDA_SUCCESS) \
            return code; \
        code = FG_CALL(name, __VA_ARGS__); \
        code = conclude(code, &request, (uintptr_t)result, &charge); \
        if (code == CUDA_SUCCESS) \
            *handle = result; \
        return code; \
    }

static struct request of_flat_v1(const struct fg_array_shape_2d_v1 *shape)
{
    return (struct request){.shape = {.width = shape->width, .height = shape->height, .format = shape->format,
                                      .channels = shape->channels}};
}

static struct request of_flat(const struct fg_array_shape_2d *shape)
{
    return (struct request){.shape = {.width = shape->width, .height = shape->height, .format = shape->format,
                                      .channels = shape->channels}};
}

static struct request of_deep_v1(const struct fg_array_shape_v1 *shape)
{
    return (struct request){.shape = {.width = shape->width, .height = shape->height, .depth = shape->depth,
                                      .format = shape->format, .channels = shape->channels, .flags = shape->flags}};
}

static struct request of_deep(const struct fg_array_shape *shape)
{
    return (struct request){.shape = *shape};
}

static struct request of_mipmap(const struct fg_array_shape *shape, unsigned int levels)
{
    return (struct request){.shape = *shape, .levels = levels, .mipmapped = true};
}

CREATE_HOOK(cuArrayCreate, CUarray, (CUarray *handle, const struct fg_array_shape_2d_v1 *shape), shape,
            of_flat_v1(shape), target, shape)
CREATE_HOOK(cuArrayCreate_v2, CUarray, (CUarray *handle, const struct fg_array_shape_2d *shape), shape, of_flat(shape),
            target, shape)
CREATE_HOOK(cuArray3DCreate, CUarray, (CUarray *handle, const struct fg_array_shape_v1 *shape), shape,
            of_deep_v1(shape), target, shape)
CREATE_HOOK(cuArray3DCreate_v2, CUarray, (CUarray *handle, const struct fg_array_shape *shape), shape, of_deep(shape),
            target, shape)
CREATE_HOOK(cuMipmappedArrayCreate, CUmipmappedArray,
            (CUmipmappedArray *handle, const struct fg_array_shape *shape, unsigned int levels), shape,
            of_mipmap(shape, levels), target, shape, levels)

static void destroyed(CUresult code, struct fg_table *table, uintptr_t handle, const struct fg_value *value)
{
    struct fg_process *process = fg_process_attached();
    if (code != CUDA_SUCCESS)
        fg_table_insert(table, handle, value);
    else if (value->kind == FG_TILES)
        fg_tiles_forget(process, value);
    else
        fg_discharge(&(struct fg_charge){.bytes = value->bytes, .member = value->member, .kind = value->kind});
}

CUresult fg_hook_cuArrayDestroy(CUarray array)
{
    struct fg_value value;
    struct fg_process *process = fg_process_attached();
    bool known = process != NULL && fg_table_take(&process->arrays, (uintptr_t)array, &value);
    CUresult code = FG_CALL(cuArrayDestroy, array);
    if (known)
        destroyed(code, &process->arrays, (uintptr_t)array, &value);
    return code;
}

CUresult fg_hook_cuMipmappedArrayDestroy(CUmipmappedArray mipmap)
{
    struct fg_value value;
    struct fg_process *process = fg_process_attached();
    bool known = process != NULL && fg_table_take(&process->mipmaps, (uintptr_t)mipmap, &value);
    CUresult code = FG_CALL(cuMipmappedArrayDestroy, mipmap);
    if (known)
        destroyed(code, &process->mipmaps, (uintptr_t)mipmap, &value);
    return code;
}

/* attributes.c: what a device says about itself. */
#include "driver.h"

enum { MULTIPROCESSORS = 16, PCI_BUS = 33, PCI_DEVICE = 34, PCI_DOMAIN = 50, COMPUTE_MAJOR = 75, COMPUTE_MINOR = 76,
       BOARD_GROUP = 85 };

static CUresult get_attribute(int *out, int attribute, CUdevice ordinal)
{
    NOT_NULL(out);
    struct fake_device *device = device_at(ordinal);
    REQUIRE(device != NULL, CUDA_ERROR_INVALID_DEVICE);
    switch (attribute) {
    case MULTIPROCESSORS:
        *out = (int)device->hw->multiprocessors;
        return CUDA_SUCCESS;
    case PCI_BUS:
        *out = (int)device->hw->pci_bus;
        return CUDA_SUCCESS;
    case PCI_DEVICE:
        *out = (int)device->hw->pci_device;
        return CUDA_SUCCESS;
    case PCI_DOMAIN:
        *out = (int)device->hw->pci_domain;
        return CUDA_SUCCESS;
    case COMPUTE_MAJOR:
        *out = (int)device->hw->compute_major;
        return CUDA_SUCCESS;
    case COMPUTE_MINOR:
        *out = (int)device->hw->compute_minor;
        return CUDA_SUCCESS;
    case BOARD_GROUP:
        *out = ordinal;
        return CUDA_SUCCESS;
#define ATTRIBUTE(number, value) case number: *out = (value); return CUDA_SUCCESS;
#include "attributes.def"
#undef ATTRIBUTE
    default:
        return CUDA_ERROR_INVALID_VALUE;
    }
}

static CUresult get_properties(CUdevprop *out, CUdevice device)
{
    NOT_NULL(out);
    struct { int attribute, *field; } fields[] = {
        { 1, &out->max_threads_per_block },  { 2, &out->max_threads_dim[0] },        { 3, &out->max_threads_dim[1] },
        { 4, &out->max_threads_dim[2] },     { 5, &out->max_grid_size[0] },          { 6, &out->max_grid_size[1] },
        { 7, &out->max_grid_size[2] },       { 8, &out->shared_memory_per_block },   { 9, &out->total_constant_memory },
        { 10, &out->simd_width },            { 11, &out->memory_pitch },             { 12, &out->registers_per_block },
        { 13, &out->clock_rate },            { 14, &out->texture_align },
    };
    for (size_t i = 0; i < sizeof fields / sizeof *fields; i++) {
        TRY(get_attribute(fields[i].field, fields[i].attribute, device));
    }
    return CUDA_SUCCESS;
}

CUAPI CUresult cuDeviceGetAttribute(int *out, int attribute, CUdevice device)
{
    DRIVER_CALL(get_attribute(out, attribute, device));
}
CUAPI CUresult cuDeviceGetProperties(CUdevprop *out, CUdevice device) { DRIVER_CALL(get_properties(out, device)); }

static const size_t limit_defaults[] = { 1024, 7340032, 8388608, 0, 2048, 128, 0 };
#define LIMITS (sizeof limit_defaults / sizeof *limit_defaults)
#define DEVICE_RUNTIME_SYNC_DEPTH 3       /* gone from compute capability 9.0 on */

static CUresult get_limit(size_t *out, unsigned limit)
{
    NOT_NULL(out);
    CUcontext context;
    TRY(context_current(&context));
    REQUIRE(limit < LIMITS && limit != DEVICE_RUNTIME_SYNC_DEPTH, CUDA_ERROR_UNSUPPORTED_LIMIT);
    *out = context->limit_set[limit] ? context->limits[limit] : limit_defaults[limit];
    return CUDA_SUCCESS;
}

#define LIMIT_PRINTF_FIFO 1
#define LIMIT_MALLOC_HEAP 2

/* What the context's buffers take more than by default, which is in the context's own cost. */
static CUresult resize_heap(CUcontext context, unsigned limit, size_t value)
{
    size_t now = context->limit_set[limit] ? context->limits[limit] : limit_defaults[limit];
    size_t before = now > limit_defaults[limit] ? ROUND_UP(now - limit_defaults[limit], PHYSICAL_GRANULE) : 0;
    REQUIRE(value < SIZE_MAX / 2, CUDA_ERROR_OUT_OF_MEMORY);
    size_t after = value > limit_defaults[limit] ? ROUND_UP(value - limit_defaults[limit], PHYSICAL_GRANULE) : 0;
    if (after > before) {
        TRY(device_charge(context->device, after - before));
    } else {
        device_discharge(context->device, before - after);
    }
    context->heap_bytes = context->heap_bytes - before + after;
    return CUDA_SUCCESS;
}

static CUresult set_limit(unsigned limit, size_t value)
{
    CUcontext context;
    TRY(context_current(&context));
    REQUIRE(limit < LIMITS && limit != DEVICE_RUNTIME_SYNC_DEPTH, CUDA_ERROR_UNSUPPORTED_LIMIT);
    if (limit == LIMIT_PRINTF_FIFO || limit == LIMIT_MALLOC_HEAP) {
        TRY(resize_heap(context, limit, value));
    }
    context->limits[limit] = value;
    context->limit_set[limit] = true;
    return CUDA_SUCCESS;
}

CUAPI CUresult cuCtxGetLimit(size_t *out, unsigned limit) { DRIVER_CALL(get_limit(out, limit)); }
CUAPI CUresult cuCtxSetLimit(unsigned limit, size_t value) { DRIVER_CALL(set_limit(limit, value)); }

static CUresult get_cache_config(int *out)
{
    NOT_NULL(out);
    CUcontext context;
    TRY(context_current(&context));
    *out = context->cache_config;
    return CUDA_SUCCESS;
}

static CUresult set_cache_config(int config)
{
    CUcontext context;
    TRY(context_current(&context));
    REQUIRE(config >= 0 && config <= 3, CUDA_ERROR_INVALID_VALUE);
    context->cache_config = config;
    return CUDA_SUCCESS;
}

CUAPI CUresult cuCtxGetCacheConfig(int *out) { DRIVER_CALL(get_cache_config(out)); }
CUAPI CUresult cuCtxSetCacheConfig(int config) { DRIVER_CALL(set_cache_config(config)); }

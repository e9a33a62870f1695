/* fill.c: memsets, in every spelling, and prefetches of managed memory: work that a device does on its memory. */
#define _GNU_SOURCE
#include "access.h"
#include "capture.h"

#include <string.h>

static void write_pattern(uint8_t *bytes, size_t size, uint32_t value, size_t width, size_t phase)
{
    uint8_t pattern[4] = { (uint8_t)value, (uint8_t)(value >> 8), (uint8_t)(value >> 16), (uint8_t)(value >> 24) };
    if (width == 1) {
        memset(bytes, pattern[0], size);
        return;
    }
    for (size_t i = 0; i < size; i++) {
        bytes[i] = pattern[(phase + i) % width];
    }
}

static void touch(CUdeviceptr address, int device)
{
    struct range *range = range_at(address);
    if (range != NULL && range->kind == RANGE_MANAGED) {
        memory_migrate(range, device);
    }
}

static CUresult fill(CUdeviceptr address, uint32_t value, size_t width, size_t count)
{
    int device;
    TRY(context_current_device(&device));
    REQUIRE(address % width == 0 && count <= SIZE_MAX / width, CUDA_ERROR_INVALID_VALUE);
    size_t size = count * width;
    TRY(access_check(address, size, SIDE_DEVICE, true));
    touch(address, device);
    for (size_t done = 0, length; done < size; done += length) {
        uint8_t *bytes = access_piece(address + done, size - done, &length);
        write_pattern(bytes, length, value, width, done);
    }
    return CUDA_SUCCESS;
}

static CUresult fill_rows(CUdeviceptr address, size_t pitch, uint32_t value, size_t width, size_t columns, size_t rows)
{
    REQUIRE(pitch >= columns * width || rows <= 1, CUDA_ERROR_INVALID_VALUE);
    for (size_t row = 0; row < rows; row++) {
        TRY(fill(address + row * pitch, value, width, columns));
    }
    return CUDA_SUCCESS;
}

static CUresult on_stream(CUstream stream)
{
    int device;
    return stream_device(stream, &device);
}

CUresult fill_run(const CUfillNode *node)
{
    return fill_rows(node->to, node->pitch, node->value, node->element, node->width, node->height);
}

static CUresult fill_on(CUstream stream, const CUfillNode *node)
{
    bool captured;
    TRY(on_stream(stream));
    struct work work = { .type = NODE_FILL, .fill = *node };
    TRY(capture_work(stream, &work, &captured));
    return captured ? CUDA_SUCCESS : fill_run(node);
}

#define FILL(bits, type) \
    STREAM_API(cuMemsetD##bits##_v2, _ptds, (CUdeviceptr to, type value, size_t count), (to, value, count)) \
    { \
        return fill(to, value, bits / 8, count); \
    } \
    STREAM_API(cuMemsetD##bits##Async, _ptsz, (CUdeviceptr to, type value, size_t count, CUstream stream), \
               (to, value, count, stream)) \
    { \
        return fill_on(stream, &(CUfillNode){ to, 0, value, bits / 8, count, 1 }); \
    } \
    STREAM_API(cuMemsetD2D##bits##_v2, _ptds, (CUdeviceptr to, size_t pitch, type value, size_t w, size_t h), \
               (to, pitch, value, w, h)) \
    { \
        return fill_rows(to, pitch, value, bits / 8, w, h); \
    } \
    STREAM_API(cuMemsetD2D##bits##Async, _ptsz, \
               (CUdeviceptr to, size_t pitch, type value, size_t w, size_t h, CUstream stream), \
               (to, pitch, value, w, h, stream)) \
    { \
        return fill_on(stream, &(CUfillNode){ to, pitch, value, bits / 8, w, h }); \
    } \
    CUAPI CUresult cuMemsetD##bits(CUdeviceptr32 to, type value, unsigned count) \
    { \
        DRIVER_CALL(fill(to, value, bits / 8, count)); \
    }

FILL(8, unsigned char)
FILL(16, unsigned short)
FILL(32, unsigned)

static CUresult prefetch(CUdeviceptr address, size_t size, int device, CUstream stream)
{
    TRY(on_stream(stream));
    struct range *range = range_at(address);
    REQUIRE(range != NULL && range->kind == RANGE_MANAGED && size > 0, CUDA_ERROR_INVALID_VALUE);
    REQUIRE(size <= range->size - (size_t)(address - range->start), CUDA_ERROR_INVALID_VALUE);
    if (device >= 0) {
        REQUIRE(device_at(device) != NULL, CUDA_ERROR_INVALID_DEVICE);
        memory_migrate(range, device);
    } else if (range->charged != 0) {
        device_discharge(range->device, range->charged);
        range->charged = 0;
    }
    return CUDA_SUCCESS;
}

STREAM_API(cuMemPrefetchAsync, _ptsz, (CUdeviceptr address, size_t size, CUdevice device, CUstream stream),
           (address, size, device, stream))
{
    REQUIRE(device >= -1, CUDA_ERROR_INVALID_DEVICE);
    return prefetch(address, size, device, stream);
}

STREAM_API(cuMemPrefetchAsync_v2, _ptsz,
           (CUdeviceptr address, size_t size, CUmemLocation location, unsigned flags, CUstream stream),
           (address, size, location, flags, stream))
{
    REQUIRE(flags == 0, CUDA_ERROR_INVALID_VALUE);
    REQUIRE(location.type == CU_LOCATION_DEVICE || location.type == CU_LOCATION_HOST, CUDA_ERROR_NOT_SUPPORTED);
    return prefetch(address, size, location.type == CU_LOCATION_DEVICE ? location.id : -1, stream);
}

/* Advice changes where pages go, never what programs read: any known kind is taken, for managed memory. */
static CUresult advise(CUdeviceptr address, size_t size, int advice)
{
    const struct range *range = range_at(address);
    REQUIRE(advice >= 1 && advice <= 6 && size > 0, CUDA_ERROR_INVALID_VALUE);
    REQUIRE(range != NULL && range->kind == RANGE_MANAGED, CUDA_ERROR_INVALID_VALUE);
    return CUDA_SUCCESS;
}

CUAPI CUresult cuMemAdvise(CUdeviceptr address, size_t size, int advice, CUdevice device)
{
    (void)device;
    DRIVER_CALL(advise(address, size, advice));
}

CUAPI CUresult cuMemAdvise_v2(CUdeviceptr address, size_t size, int advice, CUmemLocation location)
{
    (void)location;
    DRIVER_CALL(advise(address, size, advice));
}

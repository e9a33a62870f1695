/*
 * pool_share.c: pools that other processes import.
 *
 * The descriptor of a pool says whose pool it is. The memory goes pointer by pointer: the piece in which an exported
 * allocation lies becomes shareable as a whole, and stays on the device until its pool and all importers are done.
 */
#define _GNU_SOURCE
#include "pool.h"

#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#define POOL_MAGIC UINT64_C(0x4c4f4f50454b4146)

struct pool_message {
    uint64_t magic;
    int32_t maker;
    uint32_t number;
    unsigned char uuid[16];
};

struct pointer_data {
    struct share_address address;         /* 48 bytes; its pid is the maker's */
    uint64_t size;
    uint32_t offset;                      /* in units of ALIGNMENT */
    uint32_t number;                      /* of the pool */
};

_Static_assert(sizeof(struct pointer_data) <= sizeof(CUipcHandle), "the data of a pointer has 64 bytes");

static CUresult export_pool(int *descriptor, CUmemoryPool pool, int handle_type, unsigned long long flags)
{
    NOT_NULL(descriptor);
    REQUIRE(flags == 0 && pool_handle_known(pool), CUDA_ERROR_INVALID_VALUE);
    REQUIRE(handle_type == CU_HANDLE_FILE_DESCRIPTOR && (pool->handle_types & handle_type) != 0,
            CUDA_ERROR_INVALID_VALUE);
    struct pool_message message = { .magic = POOL_MAGIC, .maker = (int32_t)getpid(), .number = pool->number };
    memcpy(message.uuid, device_at(pool->device)->hw->uuid, sizeof message.uuid);
    int file = (int)syscall(SYS_memfd_create, "fracgpu-fake-pool", 1u /* close on exec */);
    REQUIRE(file >= 0, CUDA_ERROR_OUT_OF_MEMORY);
    if (write(file, &message, sizeof message) != (ssize_t)sizeof message) {
        close(file);
        return CUDA_ERROR_OUT_OF_MEMORY;
    }
    *descriptor = file;
    return CUDA_SUCCESS;
}

static CUresult import_pool(CUmemoryPool *out, int descriptor, int handle_type, unsigned long long flags)
{
    NOT_NULL(out);
    REQUIRE(flags == 0 && handle_type == CU_HANDLE_FILE_DESCRIPTOR, CUDA_ERROR_INVALID_VALUE);
    struct pool_message message;
    REQUIRE(pread(descriptor, &message, sizeof message, 0) == (ssize_t)sizeof message && message.magic == POOL_MAGIC,
            CUDA_ERROR_INVALID_VALUE);
    for (int device = 0; device < device_count(); device++) {
        if (memcmp(device_at(device)->hw->uuid, message.uuid, sizeof message.uuid) == 0) {
            return pool_create(&(struct fake_pool){ .device = device, .imported = true, .maker = message.maker,
                                                    .number = message.number }, out);
        }
    }
    return CUDA_ERROR_NOT_SUPPORTED;
}

static CUresult export_pointer(CUipcHandle *out, CUdeviceptr address)
{
    NOT_NULL(out);
    struct range *range = range_at(address);
    REQUIRE(range != NULL && range->start == address && range->kind == RANGE_POOL, CUDA_ERROR_INVALID_VALUE);
    REQUIRE(range->pool->handle_types != CU_HANDLE_NONE, CUDA_ERROR_INVALID_VALUE);
    struct segment *segment = range->segment;
    if (segment->share == NULL) {
        TRY(share_make(segment->device, segment->bytes, segment->size, &segment->share));
    }
    struct pointer_data data = { .address = share_locate(segment->share), .size = range->size,
                                 .offset = (uint32_t)((range->start - segment->start) / ALIGNMENT),
                                 .number = range->pool->number };
    memset(out, 0, sizeof *out);
    memcpy(out, &data, sizeof data);
    return CUDA_SUCCESS;
}

static CUresult import_pointer(CUdeviceptr *out, CUmemoryPool pool, const CUipcHandle *opaque)
{
    NOT_NULL(out);
    NOT_NULL(opaque);
    struct pointer_data data;
    memcpy(&data, opaque, sizeof data);
    REQUIRE(pool_handle_known(pool) && pool->imported && pool->maker == data.address.pid &&
            pool->number == data.number, CUDA_ERROR_INVALID_VALUE);
    struct share *share;
    TRY(share_open(&data.address, &share));
    size_t offset = data.offset * ALIGNMENT;
    CUresult rc = offset <= share->size && data.size <= share->size - offset
                      ? ipc_map(share, offset, data.size, NULL, pool, out)
                      : CUDA_ERROR_INVALID_VALUE;
    if (rc != CUDA_SUCCESS) {
        share_drop(share);
    }
    return rc;
}

CUAPI CUresult cuMemPoolExportToShareableHandle(void *out, CUmemoryPool pool, int type, unsigned long long flags)
{
    DRIVER_CALL(export_pool(out, pool, type, flags));
}
CUAPI CUresult cuMemPoolImportFromShareableHandle(CUmemoryPool *out, void *handle, int type, unsigned long long flags)
{
    DRIVER_CALL(import_pool(out, (int)(intptr_t)handle, type, flags));
}
CUAPI CUresult cuMemPoolExportPointer(CUipcHandle *out, CUdeviceptr p) { DRIVER_CALL(export_pointer(out, p)); }
CUAPI CUresult cuMemPoolImportPointer(CUdeviceptr *out, CUmemoryPool pool, CUipcHandle *data)
{
    DRIVER_CALL(import_pointer(out, pool, data));
}

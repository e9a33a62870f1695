/* pointer.c: what an address is, as programs ask for it. */
#include "driver.h"

#include <string.h>

static bool on_device(const struct range *range)
{
    return range->kind == RANGE_DEVICE || range->kind == RANGE_POOL || range->kind == RANGE_MAPPING ||
           range->kind == RANGE_MANAGED || range->kind == RANGE_IMPORTED;
}

static CUresult device_address(void *data, const struct range *range, CUdeviceptr address)
{
    (void)range;
    *(CUdeviceptr *)data = address;
    return CUDA_SUCCESS;
}

static CUresult host_address(void *data, const struct range *range, CUdeviceptr address)
{
    REQUIRE(!on_device(range) || range->kind == RANGE_MANAGED, CUDA_ERROR_INVALID_VALUE);
    *(void **)data = (void *)(uintptr_t)address;
    return CUDA_SUCCESS;
}

static void range_context(void *data, const struct range *range)
{
    struct fake_device *device = device_at(range->device);
    *(CUcontext *)data = range->context != NULL ? range->context : device != NULL ? device->primary : NULL;
}

static CUresult get_attribute(void *data, int attribute, CUdeviceptr address)
{
    NOT_NULL(data);
    const struct range *range = range_at(address);
    REQUIRE(range != NULL, CUDA_ERROR_INVALID_VALUE);
    bool mapping = range->kind == RANGE_MAPPING;
    switch (attribute) {
    case CU_POINTER_CONTEXT:
        range_context(data, range);
        return CUDA_SUCCESS;
    case CU_POINTER_MEMORY_TYPE:
        *(unsigned *)data = on_device(range) ? CU_MEMORYTYPE_DEVICE : CU_MEMORYTYPE_HOST;
        return CUDA_SUCCESS;
    case CU_POINTER_DEVICE_POINTER:
        return device_address(data, range, address);
    case CU_POINTER_HOST_POINTER:
        return host_address(data, range, address);
    case CU_POINTER_SYNC_MEMOPS:
    case CU_POINTER_IPC_CAPABLE:
    case CU_POINTER_RDMA_CAPABLE:
        *(unsigned *)data = 0;
        return CUDA_SUCCESS;
    case CU_POINTER_BUFFER_ID:
    case CU_POINTER_BLOCK_ID:
        *(uint64_t *)data = range->id;
        return CUDA_SUCCESS;
    case CU_POINTER_IS_MANAGED:
        *(unsigned *)data = range->kind == RANGE_MANAGED;
        return CUDA_SUCCESS;
    case CU_POINTER_DEVICE_ORDINAL:
        *(int *)data = range->device >= 0 ? range->device : range->context->device;
        return CUDA_SUCCESS;
    case CU_POINTER_RANGE_START:
    case CU_POINTER_MAPPING_BASE:
        *(CUdeviceptr *)data = range->start;
        return CUDA_SUCCESS;
    case CU_POINTER_RANGE_SIZE:
    case CU_POINTER_MAPPING_SIZE:
        *(size_t *)data = range->size;
        return CUDA_SUCCESS;
    case CU_POINTER_MAPPED:
        *(unsigned *)data = 1;
        return CUDA_SUCCESS;
    case CU_POINTER_HANDLE_TYPES:
        *(uint64_t *)data = 0;
        return CUDA_SUCCESS;
    case CU_POINTER_ACCESS_FLAGS:
        *(unsigned *)data = mapping ? (unsigned)range->access : CU_ACCESS_READ_WRITE;
        return CUDA_SUCCESS;
    case CU_POINTER_MEMPOOL:
        *(CUmemoryPool *)data = range->pool;
        return CUDA_SUCCESS;
    default:
        return CUDA_ERROR_INVALID_VALUE;
    }
}

/* Bytes of an attribute's value. */
static size_t value_size(int attribute)
{
    switch (attribute) {
    case CU_POINTER_MEMORY_TYPE:
    case CU_POINTER_SYNC_MEMOPS:
    case CU_POINTER_IS_MANAGED:
    case CU_POINTER_DEVICE_ORDINAL:
    case CU_POINTER_IPC_CAPABLE:
    case CU_POINTER_MAPPED:
    case CU_POINTER_RDMA_CAPABLE:
    case CU_POINTER_ACCESS_FLAGS:
        return sizeof(unsigned);
    default:
        return sizeof(uint64_t);
    }
}

/* Unlike the single query this one never fails for an address it does not know: values are zero, the ordinal is -2. */
static CUresult get_attributes(unsigned count, const int *attributes, void **data, CUdeviceptr address)
{
    REQUIRE(count > 0 && attributes != NULL && data != NULL, CUDA_ERROR_INVALID_VALUE);
    for (unsigned i = 0; i < count; i++) {
        NOT_NULL(data[i]);
        REQUIRE(attributes[i] >= CU_POINTER_CONTEXT && attributes[i] <= CU_POINTER_BLOCK_ID, CUDA_ERROR_INVALID_VALUE);
        if (get_attribute(data[i], attributes[i], address) != CUDA_SUCCESS) {
            memset(data[i], 0, value_size(attributes[i]));
            if (attributes[i] == CU_POINTER_DEVICE_ORDINAL) {
                *(int *)data[i] = -2;
            }
        }
    }
    return CUDA_SUCCESS;
}

static CUresult set_attribute(const void *value, int attribute, CUdeviceptr address)
{
    NOT_NULL(value);
    REQUIRE(attribute == CU_POINTER_SYNC_MEMOPS && range_at(address) != NULL, CUDA_ERROR_INVALID_VALUE);
    return CUDA_SUCCESS;                  /* every operation is synchronous already */
}

CUAPI CUresult cuPointerGetAttribute(void *data, int attribute, CUdeviceptr address)
{
    DRIVER_CALL(get_attribute(data, attribute, address));
}
CUAPI CUresult cuPointerGetAttributes(unsigned count, const int *attributes, void **data, CUdeviceptr address)
{
    DRIVER_CALL(get_attributes(count, attributes, data, address));
}
CUAPI CUresult cuPointerSetAttribute(const void *value, int attribute, CUdeviceptr address)
{
    DRIVER_CALL(set_attribute(value, attribute, address));
}

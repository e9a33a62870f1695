/* vmm_share.c: physical memory that leaves the process as a file descriptor and comes from another as one. */
#include "physical.h"

#include <string.h>

#define MESSAGE_MAGIC UINT64_C(0x4b45464d454d5641)

struct memory_message {
    uint64_t magic;
    struct share_address address;
    CUmemAllocationProp properties;
};

static CUresult export(int *descriptor, CUmemHandle handle, int handle_type, unsigned long long flags)
{
    NOT_NULL(descriptor);
    REQUIRE(flags == 0, CUDA_ERROR_INVALID_VALUE);
    REQUIRE(handle_type != CU_HANDLE_FABRIC, CUDA_ERROR_NOT_SUPPORTED);
    struct physical *physical = physical_find(handle);
    REQUIRE(physical != NULL && physical->multicast == NULL, CUDA_ERROR_INVALID_VALUE);
    REQUIRE(handle_type == CU_HANDLE_FILE_DESCRIPTOR, CUDA_ERROR_INVALID_VALUE);
    REQUIRE((physical->properties.requested_handle_types & handle_type) != 0, CUDA_ERROR_INVALID_VALUE);
    TRY(physical_share(physical));
    struct memory_message message;
    memset(&message, 0, sizeof message);
    message.magic = MESSAGE_MAGIC;
    message.address = share_locate(physical->share);
    message.properties = physical->properties;
    return share_export(physical->share, &message, sizeof message, descriptor);
}

static CUresult import(CUmemHandle *out, void *os_handle, int handle_type)
{
    NOT_NULL(out);
    REQUIRE(handle_type != CU_HANDLE_FABRIC, CUDA_ERROR_NOT_SUPPORTED);
    REQUIRE(handle_type == CU_HANDLE_FILE_DESCRIPTOR, CUDA_ERROR_INVALID_VALUE);
    struct memory_message message = { .magic = 0 };
    struct share *share;
    TRY(share_import((int)(intptr_t)os_handle, &message.address, &message, sizeof message, &share));
    struct physical content = { .size = share->size, .device = share->device, .properties = message.properties,
                                .bytes = share->bytes, .share = share };
    /* The number that this device has here. */
    content.properties.location.id = share->device;
    CUresult rc = message.magic == MESSAGE_MAGIC ? physical_add(&content, out) : CUDA_ERROR_INVALID_VALUE;
    if (rc != CUDA_SUCCESS) {
        share_drop(share);
    }
    return rc;
}

CUAPI CUresult cuMemExportToShareableHandle(void *out, CUmemHandle handle, int type, unsigned long long flags)
{
    DRIVER_CALL(export(out, handle, type, flags));
}
CUAPI CUresult cuMemImportFromShareableHandle(CUmemHandle *out, void *os_handle, int type)
{
    DRIVER_CALL(import(out, os_handle, type));
}

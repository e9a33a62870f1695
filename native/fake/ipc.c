/*
 * ipc.c: allocations that other processes open by a handle of 64 bytes.
 *
 * What leaves the process is the whole piece that the driver allocated: a small allocation takes its slab along. The
 * exporter's free ends its own hold only, so memory that an importer has open stays on the device.
 */
#include "share.h"

#include <string.h>
#include <unistd.h>

#define HANDLE_MAGIC UINT32_C(0x49435046)
#define LAZY_PEER_ACCESS 1u

struct handle {
    struct share_address address;         /* 48 bytes */
    uint32_t magic;
    uint32_t offset;                      /* in units of ALIGNMENT, from the beginning of the piece */
    uint64_t size;
};

_Static_assert(sizeof(struct handle) <= sizeof(CUipcHandle), "an IPC handle has 64 bytes");

static CUresult make_shareable(struct range *range)
{
    if (range->segment != NULL) {
        struct segment *slab = range->segment;
        return slab->share != NULL ? CUDA_SUCCESS : share_make(slab->device, slab->bytes, slab->size, &slab->share);
    }
    if (range->share == NULL) {
        TRY(share_make(range->device, range->bytes, range->reserved, &range->share));
        range->charged = 0;
    }
    return CUDA_SUCCESS;
}

static CUresult get_handle(CUipcHandle *out, CUdeviceptr address)
{
    NOT_NULL(out);
    CUcontext context;
    TRY(context_current(&context));
    struct range *range = range_at(address);
    REQUIRE(range != NULL && range->start == address && range->kind == RANGE_DEVICE, CUDA_ERROR_INVALID_VALUE);
    TRY(make_shareable(range));
    struct share *share = range->segment != NULL ? range->segment->share : range->share;
    struct handle handle = { .address = share_locate(share), .magic = HANDLE_MAGIC, .size = range->size };
    if (range->segment != NULL) {
        handle.offset = (uint32_t)((range->start - range->segment->start) / ALIGNMENT);
    }
    memset(out, 0, sizeof *out);
    memcpy(out, &handle, sizeof handle);
    return CUDA_SUCCESS;
}

CUresult ipc_map(struct share *share, size_t offset, size_t size, CUcontext context, CUmemoryPool pool,
                 CUdeviceptr *address)
{
    struct range range = { .size = size, .kind = RANGE_IMPORTED, .device = share->device, .context = context,
                           .bytes = share->bytes + offset, .reserved = ROUND_UP(size, PHYSICAL_GRANULE),
                           .pool = pool, .share = share, .opened = 1, .offset = offset };
    TRY(address_reserve(range.reserved, PHYSICAL_GRANULE, 0, &range.start));
    CUresult rc = range_insert(&range);
    if (rc != CUDA_SUCCESS) {
        address_release(range.start, range.reserved);
        return rc;
    }
    *address = range.start;
    return CUDA_SUCCESS;
}

void ipc_release(struct range *range)
{
    struct range gone = *range;
    range_remove(gone.start);
    address_release(gone.start, gone.reserved);
    share_drop(gone.share);
}

static struct range *already_open(CUcontext context, const struct handle *handle)
{
    for (int i = 0; i < range_count(); i++) {
        struct range *range = range_by_index(i);
        if (range->kind == RANGE_IMPORTED && range->context == context && range->pool == NULL &&
            range->share->hold.serial == handle->address.serial && range->offset == handle->offset * ALIGNMENT) {
            return range;
        }
    }
    return NULL;
}

static CUresult open_handle(CUdeviceptr *out, const CUipcHandle *opaque, unsigned flags)
{
    NOT_NULL(out);
    REQUIRE(flags == LAZY_PEER_ACCESS, CUDA_ERROR_INVALID_VALUE);
    CUcontext context;
    TRY(context_current(&context));
    struct handle handle;
    memcpy(&handle, opaque, sizeof handle);
    REQUIRE(handle.magic == HANDLE_MAGIC, CUDA_ERROR_INVALID_HANDLE);
    /* A process can not open what it exported itself. */
    REQUIRE(handle.address.pid != (int32_t)getpid(), CUDA_ERROR_INVALID_CONTEXT);
    struct range *open = already_open(context, &handle);
    if (open != NULL) {
        open->opened++;
        *out = open->start;
        return CUDA_SUCCESS;
    }
    struct share *share;
    TRY(share_open(&handle.address, &share));
    size_t offset = handle.offset * ALIGNMENT;
    CUresult rc = offset <= share->size && handle.size <= share->size - offset
                      ? ipc_map(share, offset, handle.size, context, NULL, out)
                      : CUDA_ERROR_INVALID_HANDLE;
    if (rc != CUDA_SUCCESS) {
        share_drop(share);
    }
    return rc;
}

static CUresult close_handle(CUdeviceptr address)
{
    CUcontext context;
    TRY(context_current(&context));
    struct range *range = range_at(address);
    REQUIRE(range != NULL && range->start == address && range->kind == RANGE_IMPORTED && range->pool == NULL,
            CUDA_ERROR_INVALID_VALUE);
    if (--range->opened == 0) {
        ipc_release(range);
    }
    return CUDA_SUCCESS;
}

CUAPI CUresult cuIpcGetMemHandle(CUipcHandle *out, CUdeviceptr address) { DRIVER_CALL(get_handle(out, address)); }
CUAPI CUresult cuIpcOpenMemHandle(CUdeviceptr *out, CUipcHandle handle, unsigned flags)
{
    DRIVER_CALL(open_handle(out, &handle, flags));
}
CUAPI CUresult cuIpcOpenMemHandle_v2(CUdeviceptr *out, CUipcHandle handle, unsigned flags)
{
    DRIVER_CALL(open_handle(out, &handle, flags));
}
CUAPI CUresult cuIpcCloseMemHandle(CUdeviceptr address) { DRIVER_CALL(close_handle(address)); }

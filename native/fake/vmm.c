/* vmm.c: virtual memory management: reserved addresses, physical allocations with references, mappings, access. */
#include "physical.h"

#include <stdlib.h>

struct reservation {
    struct reservation *next;
    CUdeviceptr start;
    size_t size;
};

static struct physical *physicals;
static struct reservation *reservations;
static CUmemHandle last_handle = 0x1000;

struct physical *physical_find(CUmemHandle handle)
{
    struct physical *physical = physicals;
    while (physical != NULL && (physical->handle != handle || physical->handle_references == 0)) {
        physical = physical->next;
    }
    return physical;
}

static struct reservation **reservation_around(CUdeviceptr start, size_t size)
{
    struct reservation **link = &reservations;
    for (; *link != NULL; link = &(*link)->next) {
        struct reservation *r = *link;
        if (start >= r->start && start - r->start < r->size && size <= r->size - (start - r->start)) {
            return link;
        }
    }
    return NULL;
}

void physical_unused(struct physical *physical)
{
    if (physical->handle_references != 0 || physical->mappings != 0) {
        return;
    }
    struct physical **link = &physicals;
    while (*link != physical) {
        link = &(*link)->next;
    }
    *link = physical->next;
    if (physical->multicast != NULL) {
        multicast_dispose(physical->multicast);
    } else if (physical->share != NULL) {
        share_drop(physical->share);
    } else {
        backing_unmap(physical->bytes, physical->size);
        device_discharge(physical->device, physical->size);
    }
    free(physical);
}

CUresult physical_add(const struct physical *content, CUmemHandle *handle)
{
    struct physical *physical = malloc(sizeof *physical);
    REQUIRE(physical != NULL, CUDA_ERROR_OUT_OF_MEMORY);
    *physical = *content;
    physical->next = physicals;
    physical->handle = ++last_handle;
    physical->handle_references = 1;
    physicals = physical;
    *handle = physical->handle;
    return CUDA_SUCCESS;
}

CUresult physical_share(struct physical *physical)
{
    if (physical->share != NULL) {
        return CUDA_SUCCESS;
    }
    return share_make(physical->device, physical->bytes, physical->size, &physical->share);
}

static CUresult check_properties(const CUmemAllocationProp *properties)
{
    NOT_NULL(properties);
    REQUIRE(properties->type == 1, CUDA_ERROR_INVALID_VALUE);
    REQUIRE(properties->location.type == CU_LOCATION_DEVICE, CUDA_ERROR_NOT_SUPPORTED);
    REQUIRE(device_at(properties->location.id) != NULL, CUDA_ERROR_INVALID_DEVICE);
    /* Of the ways to share only file descriptors; fabric handles need an IMEX channel. */
    REQUIRE((properties->requested_handle_types & ~CU_HANDLE_FILE_DESCRIPTOR) == 0, CUDA_ERROR_NOT_SUPPORTED);
    return CUDA_SUCCESS;
}

static CUresult granularity(size_t *out, const CUmemAllocationProp *properties, int option)
{
    NOT_NULL(out);
    REQUIRE(option == 0 || option == 1, CUDA_ERROR_INVALID_VALUE);
    TRY(check_properties(properties));
    *out = PHYSICAL_GRANULE;
    return CUDA_SUCCESS;
}

static CUresult reserve(CUdeviceptr *out, size_t size, size_t alignment, CUdeviceptr hint, unsigned long long flags)
{
    NOT_NULL(out);
    REQUIRE(size > 0 && size % PHYSICAL_GRANULE == 0 && flags == 0, CUDA_ERROR_INVALID_VALUE);
    REQUIRE((alignment & (alignment - 1)) == 0, CUDA_ERROR_INVALID_VALUE);
    struct reservation *reservation = calloc(1, sizeof *reservation);
    REQUIRE(reservation != NULL, CUDA_ERROR_OUT_OF_MEMORY);
    alignment = alignment > PHYSICAL_GRANULE ? alignment : PHYSICAL_GRANULE;
    CUresult rc = address_reserve(size, alignment, hint, &reservation->start);
    if (rc != CUDA_SUCCESS) {
        free(reservation);
        return rc;
    }
    reservation->size = size;
    reservation->next = reservations;
    reservations = reservation;
    *out = reservation->start;
    return CUDA_SUCCESS;
}

static CUresult unreserve(CUdeviceptr start, size_t size)
{
    struct reservation **link = reservation_around(start, size);
    REQUIRE(link != NULL && (*link)->start == start && (*link)->size == size, CUDA_ERROR_INVALID_VALUE);
    REQUIRE(!range_overlaps(start, size), CUDA_ERROR_INVALID_VALUE);
    struct reservation *reservation = *link;
    *link = reservation->next;
    address_release(start, size);
    free(reservation);
    return CUDA_SUCCESS;
}

static CUresult create(CUmemHandle *out, size_t size, const CUmemAllocationProp *properties, unsigned long long flags)
{
    NOT_NULL(out);
    REQUIRE(size > 0 && size % PHYSICAL_GRANULE == 0 && flags == 0, CUDA_ERROR_INVALID_VALUE);
    TRY(check_properties(properties));
    struct physical content = { .size = size, .device = properties->location.id, .properties = *properties };
    TRY(device_charge(content.device, size));
    content.bytes = backing_map(size);
    CUresult rc = content.bytes != NULL ? physical_add(&content, out) : CUDA_ERROR_OUT_OF_MEMORY;
    if (rc != CUDA_SUCCESS) {
        if (content.bytes != NULL) {
            backing_unmap(content.bytes, size);
        }
        device_discharge(content.device, size);
    }
    return rc;
}

static CUresult release(CUmemHandle handle)
{
    struct physical *physical = physical_find(handle);
    REQUIRE(physical != NULL, CUDA_ERROR_INVALID_VALUE);
    physical->handle_references--;
    physical_unused(physical);
    return CUDA_SUCCESS;
}

static CUresult map(CUdeviceptr start, size_t size, size_t offset, CUmemHandle handle, unsigned long long flags)
{
    struct physical *physical = physical_find(handle);
    REQUIRE(physical != NULL && flags == 0, CUDA_ERROR_INVALID_VALUE);
    REQUIRE(size > 0 && size % PHYSICAL_GRANULE == 0 && start % PHYSICAL_GRANULE == 0, CUDA_ERROR_INVALID_VALUE);
    REQUIRE(offset == 0 && size <= physical->size, CUDA_ERROR_INVALID_VALUE);
    REQUIRE(reservation_around(start, size) != NULL && !range_overlaps(start, size), CUDA_ERROR_INVALID_VALUE);
    struct range range = { .start = start, .size = size, .kind = RANGE_MAPPING, .device = physical->device,
                           .bytes = physical->bytes, .physical = physical };
    TRY(range_insert(&range));
    physical->mappings++;
    return CUDA_SUCCESS;
}

#define USAGE_TILE_POOL 1u

CUresult physical_for_tiles(struct physical **out, CUmemHandle handle, int device, size_t offset, size_t size)
{
    struct physical *physical = physical_find(handle);
    REQUIRE(physical != NULL && physical->device == device, CUDA_ERROR_INVALID_VALUE);
    REQUIRE((physical->properties.flags.usage & USAGE_TILE_POOL) != 0, CUDA_ERROR_INVALID_VALUE);
    REQUIRE(offset <= physical->size && size <= physical->size - offset, CUDA_ERROR_INVALID_VALUE);
    *out = physical;
    return CUDA_SUCCESS;
}

void physical_hold(struct physical *physical)
{
    physical->mappings++;
}

void physical_drop(struct physical *physical)
{
    physical->mappings--;
    physical_unused(physical);
}

/* [start, start + size) must be made of whole mappings without a gap. */
static CUresult whole_mappings(CUdeviceptr start, size_t size)
{
    REQUIRE(size > 0, CUDA_ERROR_INVALID_VALUE);
    while (size > 0) {
        struct range *range = range_at(start);
        REQUIRE(range != NULL && range->kind == RANGE_MAPPING, CUDA_ERROR_INVALID_VALUE);
        REQUIRE(range->start == start && range->size <= size, CUDA_ERROR_INVALID_VALUE);
        start += range->size;
        size -= range->size;
    }
    return CUDA_SUCCESS;
}

static CUresult unmap(CUdeviceptr start, size_t size)
{
    TRY(whole_mappings(start, size));
    while (size > 0) {
        struct range range = *range_at(start);
        range_remove(start);
        range.physical->mappings--;
        physical_unused(range.physical);
        start += range.size;
        size -= range.size;
    }
    return CUDA_SUCCESS;
}

static CUresult set_access(CUdeviceptr start, size_t size, const CUmemAccessDesc *accesses, size_t count)
{
    REQUIRE(accesses != NULL && count > 0, CUDA_ERROR_INVALID_VALUE);
    TRY(whole_mappings(start, size));
    for (size_t i = 0; i < count; i++) {
        const CUmemAccessDesc *access = &accesses[i];
        REQUIRE(access->location.type == CU_LOCATION_DEVICE, CUDA_ERROR_NOT_SUPPORTED);
        REQUIRE(device_at(access->location.id) != NULL, CUDA_ERROR_INVALID_DEVICE);
        REQUIRE(access->flags == 0 || access->flags == 1 || access->flags == 3, CUDA_ERROR_INVALID_VALUE);
    }
    for (CUdeviceptr at = start; at < start + size;) {
        struct range *range = range_at(at);
        for (size_t i = 0; i < count; i++) {
            if (accesses[i].location.id == range->device) {
                range->access = accesses[i].flags;
            }
        }
        at += range->size;
    }
    return CUDA_SUCCESS;
}

static CUresult get_access(unsigned long long *flags, const CUmemLocation *location, CUdeviceptr address)
{
    NOT_NULL(flags);
    NOT_NULL(location);
    struct range *range = range_at(address);
    REQUIRE(range != NULL && range->kind == RANGE_MAPPING, CUDA_ERROR_INVALID_VALUE);
    REQUIRE(location->type == CU_LOCATION_DEVICE && device_at(location->id) != NULL, CUDA_ERROR_INVALID_DEVICE);
    *flags = location->id == range->device ? (unsigned long long)range->access : 0;
    return CUDA_SUCCESS;
}

static CUresult retain(CUmemHandle *out, const void *address)
{
    NOT_NULL(out);
    struct range *range = range_at((CUdeviceptr)(uintptr_t)address);
    REQUIRE(range != NULL && range->kind == RANGE_MAPPING, CUDA_ERROR_INVALID_VALUE);
    range->physical->handle_references++;
    *out = range->physical->handle;
    return CUDA_SUCCESS;
}

static CUresult get_properties(CUmemAllocationProp *out, CUmemHandle handle)
{
    NOT_NULL(out);
    struct physical *physical = physical_find(handle);
    REQUIRE(physical != NULL, CUDA_ERROR_INVALID_VALUE);
    *out = physical->properties;
    return CUDA_SUCCESS;
}

CUAPI CUresult cuMemGetAllocationGranularity(size_t *out, const CUmemAllocationProp *properties, int option)
{
    DRIVER_CALL(granularity(out, properties, option));
}
CUAPI CUresult cuMemAddressReserve(CUdeviceptr *out, size_t size, size_t align, CUdeviceptr hint, unsigned long long f)
{
    DRIVER_CALL(reserve(out, size, align, hint, f));
}
CUAPI CUresult cuMemAddressFree(CUdeviceptr start, size_t size) { DRIVER_CALL(unreserve(start, size)); }
CUAPI CUresult cuMemCreate(CUmemHandle *out, size_t size, const CUmemAllocationProp *p, unsigned long long flags)
{
    DRIVER_CALL(create(out, size, p, flags));
}
CUAPI CUresult cuMemRelease(CUmemHandle handle) { DRIVER_CALL(release(handle)); }
CUAPI CUresult cuMemMap(CUdeviceptr start, size_t size, size_t offset, CUmemHandle handle, unsigned long long flags)
{
    DRIVER_CALL(map(start, size, offset, handle, flags));
}
CUAPI CUresult cuMemUnmap(CUdeviceptr start, size_t size) { DRIVER_CALL(unmap(start, size)); }
CUAPI CUresult cuMemSetAccess(CUdeviceptr start, size_t size, const CUmemAccessDesc *accesses, size_t count)
{
    DRIVER_CALL(set_access(start, size, accesses, count));
}
CUAPI CUresult cuMemGetAccess(unsigned long long *flags, const CUmemLocation *location, CUdeviceptr address)
{
    DRIVER_CALL(get_access(flags, location, address));
}
CUAPI CUresult cuMemRetainAllocationHandle(CUmemHandle *out, void *address) { DRIVER_CALL(retain(out, address)); }
CUAPI CUresult cuMemGetAllocationPropertiesFromHandle(CUmemAllocationProp *out, CUmemHandle handle)
{
    DRIVER_CALL(get_properties(out, handle));
}

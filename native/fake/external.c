/*
 * external.c: memory that another API exported: a file descriptor of the given size, which the import takes over.
 *
 * On a GPU it is an allocation of the exporter (Vulkan, say), who holds it and pays for it. Here it is a memory file that
 * a test makes, so buffers that are mapped from it share its bytes, and nothing is charged to anybody. What is mapped
 * lives on after the import is destroyed.
 */
#define _GNU_SOURCE
#include "array.h"

#include <stdlib.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#define TYPE_OPAQUE_FD 1
#define DEDICATED 1u
#define PAGE ((size_t)4096)

typedef struct {
    int type;
    union { int fd; struct { void *handle; const void *name; } win32; } handle;
    unsigned long long size;
    unsigned flags, reserved[16];
} CUexternalMemoryHandleDesc;
typedef struct { unsigned long long offset, size; unsigned flags, reserved[16]; } CUexternalBufferDesc;
typedef struct {
    unsigned long long offset;
    CUarray3dDescriptor descriptor;
    unsigned levels, reserved[16];
} CUexternalMipmapDesc;
_Static_assert(sizeof(CUexternalMemoryHandleDesc) == 104 && sizeof(CUexternalMipmapDesc) == 120, "as in cuda.h");

struct fake_external {
    CUexternalMemory next;
    int fd;
    unsigned long long size;
};

static CUexternalMemory imports;

static CUexternalMemory *find(CUexternalMemory external)
{
    CUexternalMemory *link = &imports;
    while (*link != NULL && *link != external) {
        link = &(*link)->next;
    }
    return *link != NULL ? link : NULL;
}

static CUresult import(CUexternalMemory *out, const CUexternalMemoryHandleDesc *d)
{
    struct stat st;
    CUcontext context;
    NOT_NULL(out);
    NOT_NULL(d);
    TRY(context_current(&context));
    REQUIRE(d->type >= TYPE_OPAQUE_FD && d->type <= 9 && (d->flags & ~DEDICATED) == 0, CUDA_ERROR_INVALID_VALUE);
    REQUIRE(d->type == TYPE_OPAQUE_FD, CUDA_ERROR_NOT_SUPPORTED);
    REQUIRE(d->size > 0 && fstat(d->handle.fd, &st) == 0 && st.st_size >= 0, CUDA_ERROR_INVALID_VALUE);
    REQUIRE(S_ISREG(st.st_mode) && d->size <= (unsigned long long)st.st_size, CUDA_ERROR_INVALID_VALUE);
    CUexternalMemory external = calloc(1, sizeof *external);
    REQUIRE(external != NULL, CUDA_ERROR_OUT_OF_MEMORY);
    *external = (struct fake_external){ .next = imports, .fd = d->handle.fd, .size = d->size };
    imports = external;
    *out = external;
    return CUDA_SUCCESS;
}

static CUresult destroy(CUexternalMemory external)
{
    CUexternalMemory *link = find(external);
    REQUIRE(link != NULL, CUDA_ERROR_INVALID_HANDLE);
    *link = external->next;
    close(external->fd);
    free(external);
    return CUDA_SUCCESS;
}

/* [offset, offset + size) of the memory, shared with whoever exported it. */
static CUresult view(uint8_t **out, CUexternalMemory external, unsigned long long offset, unsigned long long size)
{
    REQUIRE(find(external) != NULL, CUDA_ERROR_INVALID_HANDLE);
    REQUIRE(size > 0 && offset % PAGE == 0, CUDA_ERROR_INVALID_VALUE);
    REQUIRE(offset <= external->size && size <= external->size - offset, CUDA_ERROR_INVALID_VALUE);
    void *bytes = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED, external->fd, (off_t)offset);
    REQUIRE(bytes != MAP_FAILED, CUDA_ERROR_OPERATING_SYSTEM);
    *out = bytes;
    return CUDA_SUCCESS;
}

static CUresult map_buffer(CUdeviceptr *out, CUexternalMemory external, const CUexternalBufferDesc *d)
{
    CUcontext context;
    NOT_NULL(out);
    NOT_NULL(d);
    TRY(context_current(&context));
    REQUIRE(d->flags == 0, CUDA_ERROR_INVALID_VALUE);
    struct range range = { .size = d->size, .kind = RANGE_DEVICE, .device = context->device, .context = context };
    TRY(view(&range.bytes, external, d->offset, d->size));
    range.reserved = ROUND_UP(range.size, PAGE);
    CUresult rc = address_reserve(range.reserved, PHYSICAL_GRANULE, 0, &range.start);
    if (rc == CUDA_SUCCESS && (rc = range_insert(&range)) != CUDA_SUCCESS) {
        address_release(range.start, range.reserved);
    }
    if (rc != CUDA_SUCCESS) {
        backing_unmap(range.bytes, range.size);
        return rc;
    }
    *out = range.start;
    return CUDA_SUCCESS;
}

static CUresult map_mipmap(CUmipmappedArray *out, CUexternalMemory external, const CUexternalMipmapDesc *d)
{
    struct image *image;
    NOT_NULL(out);
    NOT_NULL(d);
    TRY(image_external(&image, &d->descriptor, d->levels));
    CUresult rc = view(&image->bytes, external, d->offset, image->shape.bytes);
    if (rc == CUDA_SUCCESS) {
        image->mapped_bytes = image->shape.bytes;
        rc = mipmap_handle(out, image);
    }
    if (rc != CUDA_SUCCESS) {
        image_destroy(image);
    }
    return rc;
}

CUAPI CUresult cuImportExternalMemory(CUexternalMemory *out, const CUexternalMemoryHandleDesc *d)
{
    DRIVER_CALL(import(out, d));
}
CUAPI CUresult cuDestroyExternalMemory(CUexternalMemory external) { DRIVER_CALL(destroy(external)); }
CUAPI CUresult cuExternalMemoryGetMappedBuffer(CUdeviceptr *out, CUexternalMemory e, const CUexternalBufferDesc *d)
{
    DRIVER_CALL(map_buffer(out, e, d));
}
CUAPI CUresult cuExternalMemoryGetMappedMipmappedArray(CUmipmappedArray *out, CUexternalMemory e,
                                                       const CUexternalMipmapDesc *d)
{
    DRIVER_CALL(map_mipmap(out, e, d));
}

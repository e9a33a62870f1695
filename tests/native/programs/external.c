/*
 * external LIMIT_MIB: memory of another API is nobody's charge here, and no end of it discharges anybody.
 *
 * Exit 0 if so; else 1, and stderr says where.
 */
#include <unistd.h>

#include "arrays_api.h"

#define EXTERNAL_BYTES (256 * MIB)
#define OPAQUE_FD 1

struct import_desc {
    int type;
    union {
        int fd;
        void *win32[2];
    } handle;
    uint64_t size;
    unsigned flags, reserved[16];
};

struct buffer_desc {
    uint64_t offset, size;
    unsigned flags, reserved[16];
};

struct mipmap_desc {
    uint64_t offset;
    struct array_shape shape;
    unsigned levels, reserved[16];
};

static int (*import_memory)(handle_t *, const struct import_desc *);
static int (*destroy_memory)(handle_t);
static int (*map_buffer)(uint64_t *, handle_t, const struct buffer_desc *);
static int (*map_mipmap)(handle_t *, handle_t, const struct mipmap_desc *);

static size_t limit;

static size_t charged(void)
{
    size_t free_bytes, total;
    CHECK(cuMemGetInfo_v2(&free_bytes, &total) == 0 && total == limit);
    return total - free_bytes;
}

static handle_t import(void)
{
    struct import_desc desc = {.type = OPAQUE_FD, .size = EXTERNAL_BYTES};
    handle_t external = NULL;
    FILE *exported = tmpfile();
    CHECK(exported != NULL && (desc.handle.fd = dup(fileno(exported))) >= 0);
    CHECK(ftruncate(desc.handle.fd, (off_t)EXTERNAL_BYTES) == 0 && fclose(exported) == 0);
    CHECK(import_memory(&external, &desc) == 0);
    return external;
}

int main(int count, char **arguments)
{
    struct buffer_desc buffer = {.size = EXTERNAL_BYTES};
    struct mipmap_desc images = {.shape = {2048, 2048, 0, FORMAT_FLOAT, 4, 0}, .levels = 1};
    uint64_t own = 0, mapped = 0, more = SENTINEL;
    handle_t mipmap = NULL, level = NULL;
    CHECK(count == 2);
    limit = strtoul(arguments[1], NULL, 10) * MIB;
    load_driver();
    *(void **)&import_memory = dlsym(driver_library, "cuImportExternalMemory");
    *(void **)&destroy_memory = dlsym(driver_library, "cuDestroyExternalMemory");
    *(void **)&map_buffer = dlsym(driver_library, "cuExternalMemoryGetMappedBuffer");
    *(void **)&map_mipmap = dlsym(driver_library, "cuExternalMemoryGetMappedMipmappedArray");
    CHECK(cuInit(0) == 0);
    use_device(0);

    /* More than the limit, and it costs nothing. */
    handle_t external = import();
    CHECK(map_buffer(&mapped, external, &buffer) == 0 && map_mipmap(&mipmap, external, &images) == 0);
    CHECK(charged() == 0);
    CHECK(cuMemAlloc_v2(&own, 32 * MIB) == 0 && charged() == 32 * MIB);
    CHECK(cuMemAlloc_v2(&more, limit) == OUT_OF_MEMORY && more == SENTINEL);

    /* Each end of it is the driver's, and the own memory stays what is charged. */
    CHECK(cuMipmappedArrayGetLevel(&level, mipmap, 0) == 0 && cuArrayDestroy(level) != 0);
    CHECK(destroy_memory(external) == 0 && destroy_memory(external) != 0 && charged() == 32 * MIB);
    CHECK(cuMemFree_v2(mapped) == 0 && charged() == 32 * MIB);
    CHECK(cuMemFree_v2(mapped) != 0 && charged() == 32 * MIB);
    CHECK(cuMipmappedArrayDestroy(mipmap) == 0 && charged() == 32 * MIB);
    CHECK(cuMipmappedArrayDestroy(mipmap) != 0 && charged() == 32 * MIB);
    CHECK(cuMemFree_v2(own) == 0 && charged() == 0);
    return 0;
}

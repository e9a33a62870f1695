/* What code takes: measured when it is loaded, given back when it goes, alone or with its context. */
#include <fcntl.h>
#include <unistd.h>

#include "behave.h"

#define FLOOR (64 * MIB)
#define IMAGE_BYTES (5 * MIB)
#define TAKEN (6 * MIB)                /* whole granules */

static char image_file[] = "/tmp/behave-image-XXXXXX";

/* PTX as far as a size goes. */
static const char *image(void)
{
    static char text[IMAGE_BYTES + 1];
    memset(text, '/', IMAGE_BYTES);
    return text;
}

static const void *fat_image(void)
{
    static struct {
        uint32_t magic;
        uint16_t version, header_bytes;
        uint64_t bytes;
    } header = {0xBA55ED50u, 1, 16, IMAGE_BYTES};
    static struct {
        uint32_t magic, version;
        const void *data;
    } wrapper = {0x466243B1u, 1, &header};
    return &wrapper;
}

static const char *file(void)
{
    int descriptor = mkstemp(image_file);
    CHECK(descriptor >= 0 && write(descriptor, image(), IMAGE_BYTES) == (ssize_t)IMAGE_BYTES);
    close(descriptor);
    return image_file;
}

typedef int load_t(handle_t *module);

static int load_data(handle_t *module) { return cuModuleLoadData(module, image()); }
static int load_data_ex(handle_t *module) { return cuModuleLoadDataEx(module, image(), 0, NULL, NULL); }
static int load_fat(handle_t *module) { return cuModuleLoadFatBinary(module, fat_image()); }
static int library_data(handle_t *library) { return cuLibraryLoadData(library, image(), NULL, NULL, 0, NULL, NULL, 0); }

static int library_file(handle_t *library)
{
    return cuLibraryLoadFromFile(library, image_file, NULL, NULL, 0, NULL, NULL, 0);
}

static void check_load(load_t *load, int (*unload)(handle_t))
{
    handle_t module, second;
    uint64_t address;
    CHECK(overhead() == FLOOR && load(&module) == 0);
    CHECK(overhead() == FLOOR + TAKEN && charged() == 0);
    CHECK(shown_free() == limit - FLOOR - TAKEN);
    CHECK(load(NULL) != 0 && overhead() == FLOOR + TAKEN);
    /* Nothing that runs is refused: what comes next pays. */
    CHECK(cuMemAlloc_v2(&address, shown_free() - 4 * MIB) == 0);
    CHECK(load(&second) == 0 && shown_free() == 0);
    CHECK(unload(second) == 0 && overhead() == FLOOR + TAKEN);
    CHECK(cuMemFree_v2(address) == 0);
    CHECK(unload(module) == 0 && overhead() == FLOOR);
    CHECK(unload(module) != 0 && overhead() == FLOOR);
}

void check_module_data(void) { check_load(load_data, cuModuleUnload); }
void check_module_data_ex(void) { check_load(load_data_ex, cuModuleUnload); }
void check_module_fat(void) { check_load(load_fat, cuModuleUnload); }
void check_library_data(void) { check_load(library_data, cuLibraryUnload); }

void check_module_load(void)
{
    CHECK(cuModuleLoad(&(handle_t){NULL}, file()) == 0);
    CHECK(unlink(image_file) == 0);
    CHECK(overhead() == FLOOR + TAKEN);
}

void check_library_file(void)
{
    handle_t library;
    CHECK(file() != NULL && library_file(&library) == 0 && unlink(image_file) == 0);
    CHECK(overhead() == FLOOR + TAKEN);
    CHECK(cuLibraryUnload(library) == 0 && overhead() == FLOOR);
}

void check_module_unload(void)
{
    handle_t module, context;
    CHECK(load_data(&module) == 0 && overhead() == FLOOR + TAKEN);
    CHECK(cuModuleUnload(module) == 0 && overhead() == FLOOR);
    /* Modules go with their context; another one's stay. */
    CHECK(load_data(&module) == 0);
    CHECK(cuCtxCreate_v2(&context, 0, 0) == 0 && overhead() == 2 * FLOOR + TAKEN);
    CHECK(load_data(&(handle_t){NULL}) == 0 && load_data(&(handle_t){NULL}) == 0);
    CHECK(overhead() == 2 * FLOOR + 3 * TAKEN);
    CHECK(cuCtxDestroy_v2(context) == 0 && overhead() == FLOOR + TAKEN);
    for (int round = 0; round < 1000; round++) {
        CHECK(load_data(&context) == 0);
        CHECK(cuModuleUnload(context) == 0);
    }
    CHECK(cuModuleUnload(module) == 0 && overhead() == FLOOR);
}

void check_library_unload(void)
{
    handle_t library;
    CHECK(library_data(&library) == 0 && overhead() == FLOOR + TAKEN);
    CHECK(cuLibraryUnload(library) == 0 && overhead() == FLOOR);
    CHECK(cuLibraryUnload(library) != 0 && overhead() == FLOOR);
}

void check_heaps(void)
{
    handle_t context;
    CHECK(cuCtxSetLimit(2, 100 * MIB) == 0);
    CHECK(overhead() >= FLOOR + 90 * MIB && overhead() <= FLOOR + 102 * MIB);
    CHECK(cuCtxSetLimit(99, MIB) != 0);
    CHECK(cuDevicePrimaryCtxRetain(&context, 0) == 0 && cuDevicePrimaryCtxReset_v2(0) == 0 && overhead() == 0);
}

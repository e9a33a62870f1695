/* module.c: modules and libraries as images of a size. What is in them is not looked at: the model runs no kernels. */
#define _GNU_SOURCE
#include "driver.h"

#include <ctype.h>
#include <elf.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define LAZY_LOADING 2
#define FATBIN_MAGIC 0xBA55ED50u
#define FATBIN_WRAPPER_MAGIC 0x466243B1u
#define FUNCTION_BYTES PHYSICAL_GRANULE   /* what the first use of a kernel loads */

struct fatbin_header { uint32_t magic; uint16_t version, header_bytes; uint64_t bytes; };
struct fatbin_wrapper { uint32_t magic, version; const void *data; };

/* A module belongs to a context, a library to the device that was current. Never freed: stale handles are recognised. */
struct fake_module {
    struct fake_module *next;
    CUcontext context;
    int device;
    size_t charged;
    bool library;
    bool alive;
    bool used;                            /* a function has been asked for */
};

static struct fake_module *modules;

static CUresult image_bytes(const void *image, size_t *bytes)
{
    const unsigned char *start = image;
    uint32_t magic;
    memcpy(&magic, image, sizeof magic);
    if (magic == FATBIN_WRAPPER_MAGIC) {
        const struct fatbin_wrapper *wrapper = image;
        NOT_NULL(wrapper->data);
        return image_bytes(wrapper->data, bytes);
    }
    if (magic == FATBIN_MAGIC) {
        const struct fatbin_header *header = image;
        *bytes = header->header_bytes + header->bytes;
    } else if (memcmp(start, ELFMAG, SELFMAG) == 0) {
        const Elf64_Ehdr *header = image;
        *bytes = header->e_shoff + (size_t)header->e_shnum * header->e_shentsize;
    } else if (isprint(start[0]) || isspace(start[0])) {
        *bytes = strlen(image);           /* PTX */
    } else {
        return CUDA_ERROR_INVALID_IMAGE;
    }
    return CUDA_SUCCESS;
}

static CUresult load(struct fake_module **out, const void *image, bool library)
{
    NOT_NULL(out);
    NOT_NULL(image);
    CUcontext context;
    size_t bytes;
    TRY(context_current(&context));
    TRY(image_bytes(image, &bytes));
    struct fake_module *module = calloc(1, sizeof *module);
    REQUIRE(module != NULL, CUDA_ERROR_OUT_OF_MEMORY);
    module->charged = ROUND_UP(bytes, PHYSICAL_GRANULE);
    CUresult rc = device_charge(context->device, module->charged);
    if (rc != CUDA_SUCCESS) {
        free(module);
        return rc;
    }
    module->context = context;
    module->device = context->device;
    module->library = library;
    module->alive = true;
    module->next = modules;
    modules = module;
    *out = module;
    return CUDA_SUCCESS;
}

static CUresult load_file(struct fake_module **out, const char *path, bool library)
{
    NOT_NULL(out);
    NOT_NULL(path);
    FILE *file = fopen(path, "rb");
    REQUIRE(file != NULL, CUDA_ERROR_FILE_NOT_FOUND);
    char *image = NULL;
    size_t room = 0;
    /* An image without a NUL in it is text; of others the beginning up to their first NUL does not say their size. */
    ssize_t length = getdelim(&image, &room, '\0', file);
    fclose(file);
    CUresult rc = length > 4 ? load(out, image, library) : CUDA_ERROR_INVALID_IMAGE;
    free(image);
    return rc;
}

static CUresult find(struct fake_module *wanted, bool library)
{
    struct fake_module *known = modules;
    while (known != NULL && known != wanted) {
        known = known->next;
    }
    REQUIRE(known != NULL && known->alive && known->library == library, CUDA_ERROR_INVALID_HANDLE);
    return CUDA_SUCCESS;
}

static void drop(struct fake_module *module)
{
    module->alive = false;
    device_discharge(module->device, module->charged);
}

static CUresult unload(struct fake_module *module, bool library)
{
    TRY(find(module, library));
    drop(module);
    return CUDA_SUCCESS;
}

void modules_release_context(CUcontext context)
{
    for (struct fake_module *module = modules; module != NULL; module = module->next) {
        if (module->alive && module->context == context) {
            drop(module);
        }
    }
}

/* Lazy loading: the code comes with the first function that somebody asks for. */
static CUresult function(void **out, struct fake_module *module, const char *name, bool library)
{
    NOT_NULL(out);
    NOT_NULL(name);
    TRY(find(module, library));
    if (!module->used) {
        TRY(device_charge(module->device, FUNCTION_BYTES));
        module->charged += FUNCTION_BYTES;
        module->used = true;
    }
    *out = &module->used;
    return CUDA_SUCCESS;
}

static CUresult loading_mode(int *out)
{
    NOT_NULL(out);
    *out = LAZY_LOADING;
    return CUDA_SUCCESS;
}

typedef struct fake_module *CUmodule;

CUAPI CUresult cuModuleGetLoadingMode(int *out) { DRIVER_CALL(loading_mode(out)); }
CUAPI CUresult cuModuleLoad(CUmodule *out, const char *path) { DRIVER_CALL(load_file(out, path, false)); }
CUAPI CUresult cuModuleLoadData(CUmodule *out, const void *image) { DRIVER_CALL(load(out, image, false)); }
CUAPI CUresult cuModuleLoadDataEx(CUmodule *out, const void *image, unsigned count, int *options, void **values)
{
    (void)count, (void)options, (void)values;
    DRIVER_CALL(load(out, image, false));
}
CUAPI CUresult cuModuleLoadFatBinary(CUmodule *out, const void *image) { DRIVER_CALL(load(out, image, false)); }
CUAPI CUresult cuModuleUnload(CUmodule module) { DRIVER_CALL(unload(module, false)); }
CUAPI CUresult cuModuleGetFunction(void **out, CUmodule m, const char *n) { DRIVER_CALL(function(out, m, n, false)); }
CUAPI CUresult cuLibraryLoadData(CUmodule *out, const void *image, int *jit_options, void **jit_values,
                                 unsigned jit_count, int *options, void **values, unsigned count)
{
    (void)jit_options, (void)jit_values, (void)jit_count, (void)options, (void)values, (void)count;
    DRIVER_CALL(load(out, image, true));
}
CUAPI CUresult cuLibraryLoadFromFile(CUmodule *out, const char *path, int *jit_options, void **jit_values,
                                     unsigned jit_count, int *options, void **values, unsigned count)
{
    (void)jit_options, (void)jit_values, (void)jit_count, (void)options, (void)values, (void)count;
    DRIVER_CALL(load_file(out, path, true));
}
CUAPI CUresult cuLibraryUnload(CUmodule library) { DRIVER_CALL(unload(library, true)); }
CUAPI CUresult cuLibraryGetKernel(void **out, CUmodule l, const char *n) { DRIVER_CALL(function(out, l, n, true)); }

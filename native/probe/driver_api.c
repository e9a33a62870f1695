/* driver_api.c: libcuda the way NVIDIA's runtime library finds its way into it. */
#include "driver_api.h"

#include <dlfcn.h>
#include <stdint.h>
#include <string.h>

typedef int get_proc_address(const char *name, void **out, int version, uint64_t flags, int *status);

static get_proc_address *lookup;

void *driver_library(void)
{
    void *library = dlopen("libcuda.so.1", RTLD_NOW | RTLD_LOCAL);
    void *symbol = library != NULL ? dlsym(library, "cuGetProcAddress_v2") : NULL;
    memcpy(&lookup, &symbol, sizeof symbol);
    return symbol != NULL ? library : NULL;
}

void *driver_function(const char *name, int version)
{
    void *function = NULL;
    int status = 0;
    return lookup(name, &function, version, 0, &status) == 0 ? function : NULL;
}

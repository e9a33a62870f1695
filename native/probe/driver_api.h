/* driver_api.h: libcuda the way NVIDIA's runtime library finds its way into it. */
#ifndef PROBE_DRIVER_API_H
#define PROBE_DRIVER_API_H

#include <stddef.h>

/* dlopen("libcuda.so.1") by name; NULL, with dlerror() set, when there is none. */
void *driver_library(void);
/* A function by its base name, for callers of a CUDA version: through cuGetProcAddress_v2; NULL when unknown. */
void *driver_function(const char *name, int version);

#endif /* PROBE_DRIVER_API_H */

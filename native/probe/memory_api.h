/* memory_api.h: device memory the way programs get it: through NVIDIA's runtime library, or through the driver. */
#ifndef PROBE_MEMORY_API_H
#define PROBE_MEMORY_API_H

#include <stdbool.h>
#include <stddef.h>

#define PROBE_OUT_OF_MEMORY 2             /* cudaErrorMemoryAllocation and CUDA_ERROR_OUT_OF_MEMORY alike */

/* Exit statuses of the probes. */
enum { EXIT_FINE = 0, EXIT_REFUSED = 1, EXIT_USAGE = 2, EXIT_NO_LIBRARY = 3 };

/* Load the API: `which` is the path of a libcudart, or "driver". Prints one JSON line and returns false on failure. */
bool memory_api_open(const char *which);
const char *memory_api_name(void);        /* "runtime" or "driver" */
/* All return the API's error code, 0 for success. */
int memory_allocate(void **out, size_t bytes);
int memory_release(void *pointer);
int memory_info(size_t *free_bytes, size_t *total_bytes);
const char *memory_error_name(int code);

/* Parse a positive number of MiB into bytes; 0 when it is none. */
size_t parse_mib(const char *text);
/* Until stop_wait returns, SIGTERM and SIGINT do nothing; call stop_prepare before any library starts a thread. */
void stop_prepare(void);
void stop_wait(void);

#endif /* PROBE_MEMORY_API_H */

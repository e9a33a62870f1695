/*
 * nvml_types.h: the facts of NVML's ABI that the NVML shim relies on, as nvml.h gives them.
 */
#ifndef FRACGPU_INTERCEPTOR_NVML_TYPES_H
#define FRACGPU_INTERCEPTOR_NVML_TYPES_H

#include <stddef.h>
#include <stdint.h>

typedef int nvmlReturn_t;
typedef struct nvmlDevice_st *nvmlDevice_t;

enum {
    NVML_SUCCESS = 0,
    NVML_ERROR_FUNCTION_NOT_FOUND = 13,
    NVML_ERROR_ARGUMENT_VERSION_MISMATCH = 25,
    NVML_ERROR_UNKNOWN = 999,
    NVML_DEVICE_UUID_V2_BUFFER_SIZE = 96
};

struct fg_nvml_memory {
    unsigned long long total;
    unsigned long long free;
    unsigned long long used;
};

struct fg_nvml_memory_v2 {
    unsigned int version;
    unsigned long long total;
    unsigned long long reserved;
    unsigned long long free;
    unsigned long long used;
};

/* How a versioned struct of NVML states what it is. */
#define FG_NVML_MEMORY_V2 ((unsigned int)(sizeof(struct fg_nvml_memory_v2) | 2u << 24))

#endif

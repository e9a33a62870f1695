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
    NVML_ERROR_INVALID_ARGUMENT = 2,
    NVML_ERROR_NOT_SUPPORTED = 3,
    NVML_ERROR_NO_PERMISSION = 4,
    NVML_ERROR_NOT_FOUND = 6,
    NVML_ERROR_INSUFFICIENT_SIZE = 7,
    NVML_ERROR_FUNCTION_NOT_FOUND = 13,
    NVML_ERROR_MEMORY = 20,
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

struct fg_nvml_process_v1 {
    unsigned int pid;
    unsigned long long used;
};

/* The third version of the functions has the second one's struct. */
struct fg_nvml_process_v2 {
    unsigned int pid;
    unsigned long long used;
    unsigned int gpu_instance;
    unsigned int compute_instance;
};

struct fg_nvml_process_detail {
    unsigned int pid;
    unsigned long long used;
    unsigned int gpu_instance;
    unsigned int compute_instance;
    unsigned long long used_protected;
};

struct fg_nvml_process_detail_list {
    unsigned int version;
    unsigned int mode;
    unsigned int count;
    struct fg_nvml_process_detail *processes;
};

enum { FG_NVML_NO_INSTANCE = -1 };

enum fg_nvml_process_mode {
    FG_NVML_COMPUTE = 0,
    FG_NVML_GRAPHICS = 1,
    FG_NVML_MPS = 2,
    FG_NVML_ALL = 3
};

struct fg_nvml_bar1 {
    unsigned long long total;
    unsigned long long free;
    unsigned long long used;
};

struct fg_nvml_utilization {
    unsigned int gpu;
    unsigned int memory;
};

struct fg_nvml_process_sample {
    unsigned int pid;
    unsigned long long time_us;
    unsigned int sm;
    unsigned int memory;
    unsigned int encoder;
    unsigned int decoder;
};

struct fg_nvml_process_utilization {
    unsigned long long time_us;
    unsigned int pid;
    unsigned int sm;
    unsigned int memory;
    unsigned int encoder;
    unsigned int decoder;
    unsigned int jpeg;
    unsigned int flow;
};

struct fg_nvml_processes_utilization {
    unsigned int version;
    unsigned int count;
    unsigned long long last_seen_us;
    struct fg_nvml_process_utilization *processes;
};

/* nvmlSamplingType_t */
enum {
    FG_NVML_SAMPLES_POWER = 0,
    FG_NVML_SAMPLES_GPU = 1,
    FG_NVML_SAMPLES_MEMORY = 2,
    FG_NVML_SAMPLES_CLOCK = 5,
    FG_NVML_SAMPLES_MEMORY_CLOCK = 6,
    FG_NVML_SAMPLES_MODULE_POWER = 7
};

/* A union in NVML; percentages are its first 32 bits. */
struct fg_nvml_sample {
    unsigned long long time_us;
    unsigned long long value;
};

enum { FG_NVML_VALUE_UNSIGNED = 1 };

enum { FG_NVML_PSTATE_DOMAINS = 8 };

struct fg_nvml_pstate_domain {
    unsigned int present;
    unsigned int percent;
    unsigned int increase_threshold;
    unsigned int decrease_threshold;
};

struct fg_nvml_dynamic_pstates {
    unsigned int flags;
    struct fg_nvml_pstate_domain domains[FG_NVML_PSTATE_DOMAINS];
};

struct fg_nvml_accounting_stats {
    unsigned int gpu;
    unsigned int memory;
    unsigned long long max_memory;
    unsigned long long time_ms;
    unsigned long long start_us;
    unsigned int running;
    unsigned int reserved[5];
};

struct fg_nvml_accounting_stats_v2 {
    unsigned int pid;
    unsigned int running;
    unsigned int gpu;
    unsigned int memory;
    unsigned long long max_memory;
    unsigned int samples;
    unsigned long long gpu_sum;
    unsigned long long memory_sum;
    unsigned long long time_ms;
    unsigned long long start_us;
};

struct fg_nvml_gpm_support {
    unsigned int version;
    unsigned int supported;
};

struct fg_nvml_memory_limits {
    const char *cgroup;
    unsigned long long soft_bytes;
    unsigned long long hard_bytes;
    unsigned long long used_bytes;
};

/* How a versioned struct of NVML states what it is. */
#define FG_NVML_PROCESS_DETAIL_LIST_V1 ((unsigned int)(sizeof(struct fg_nvml_process_detail_list) | 1u << 24))
#define FG_NVML_PROCESSES_UTILIZATION_V1 \
    ((unsigned int)(sizeof(struct fg_nvml_processes_utilization) | 1u << 24))
#define FG_NVML_MEMORY_V2 ((unsigned int)(sizeof(struct fg_nvml_memory_v2) | 2u << 24))

#endif

/* nvml_abi.h: the facts of the NVML ABI that the model needs, written down independently of NVIDIA's headers. */
#ifndef FAKE_NVML_ABI_H
#define FAKE_NVML_ABI_H

#include <stddef.h>
#include <stdint.h>

typedef int nvmlReturn;
typedef struct nvml_device *nvmlDevice;

#define NVML_ERROR(code, name, text) name = code,
enum {
#include "nvml_errors.def"
};
#undef NVML_ERROR

typedef struct { unsigned long long total, free, used; } nvmlMemory;
typedef struct { unsigned version; unsigned long long total, reserved, free, used; } nvmlMemory_v2;
#define NVML_MEMORY_V2 ((unsigned)(sizeof(nvmlMemory_v2) | 2u << 24))

typedef struct { unsigned pid; unsigned long long used; } nvmlProcessInfo_v1;
typedef struct { unsigned pid; unsigned long long used; unsigned gpu_instance, compute_instance; } nvmlProcessInfo_v2;
#define NVML_NO_INSTANCE 0xffffffffu
typedef struct {
    unsigned pid;
    unsigned long long used;
    unsigned gpu_instance, compute_instance;
    unsigned long long used_protected;
} nvmlProcessDetail_v1;
typedef struct {
    unsigned version, mode, count;
    nvmlProcessDetail_v1 *processes;
} nvmlProcessDetailList_v1;
#define NVML_PROCESS_DETAIL_LIST_V1 ((unsigned)(sizeof(nvmlProcessDetailList_v1) | 1u << 24))

typedef struct { unsigned long long total, free, used; } nvmlBar1Memory;

/* The text or, as type 2, the 16 bytes of a UUID. */
typedef struct { unsigned version, type; char value[41]; } nvmlUuid_v1;
#define NVML_UUID_V1 ((unsigned)(sizeof(nvmlUuid_v1) | 1u << 24))

typedef struct { unsigned gpu, memory; } nvmlUtilization;

typedef struct {
    unsigned pid;
    unsigned long long time_us;
    unsigned sm, memory, encoder, decoder;
} nvmlProcessUtilizationSample;
typedef struct {
    unsigned long long time_us;
    unsigned pid, sm, memory, encoder, decoder, jpeg, flow;
} nvmlProcessUtilizationInfo_v1;
typedef struct {
    unsigned version, count;
    unsigned long long last_seen_us;
    nvmlProcessUtilizationInfo_v1 *processes;
} nvmlProcessesUtilizationInfo_v1;
#define NVML_PROCESSES_UTILIZATION_V1 ((unsigned)(sizeof(nvmlProcessesUtilizationInfo_v1) | 1u << 24))

typedef union { double real; unsigned number; unsigned long long large; } nvmlValue;
typedef struct { unsigned long long time_us; nvmlValue value; } nvmlSample;
typedef struct {
    unsigned field, scope;
    long long time_us, latency_us;
    unsigned type;
    nvmlReturn code;
    nvmlValue value;
} nvmlFieldValue;
#define NVML_VALUE_UNSIGNED 1u

typedef struct {
    unsigned gpu, memory;
    unsigned long long max_memory, time_ms, start_us;
    unsigned running, reserved[5];
} nvmlAccountingStats;

typedef struct {
    unsigned pid, running, gpu, memory;
    unsigned long long max_memory;
    unsigned samples;
    unsigned long long gpu_sum, memory_sum, time_ms, start_us;
} nvmlAccountingStats_v2;

typedef struct { unsigned sessions, average_fps, average_latency_us; } nvmlFbcStats;

/* Eight domains of which the driver fills the first four: GPU, frame buffer, video, bus. */
typedef struct {
    unsigned flags;
    struct { unsigned present, percent, increase, decrease; } domains[8];
} nvmlDynamicPstates;

typedef struct { unsigned version, supported; } nvmlGpmSupport;
#define NVML_GPM_SUPPORT_VERSION 1u

typedef struct {
    char bus_id[16];
    unsigned domain, bus, device, pci_device_id;
    unsigned reserved[4];
} nvmlPciInfo_v1;

typedef struct {
    char bus_id[16];
    unsigned domain, bus, device, pci_device_id, pci_subsystem_id;
    unsigned reserved[4];
} nvmlPciInfo_v2;

typedef struct {
    char bus_id_legacy[16];
    unsigned domain, bus, device, pci_device_id, pci_subsystem_id;
    char bus_id[32];
} nvmlPciInfo_v3;

#define NVMLAPI __attribute__((visibility("default")))

#endif /* FAKE_NVML_ABI_H */

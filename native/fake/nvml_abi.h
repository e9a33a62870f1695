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

typedef struct { unsigned gpu, memory; } nvmlUtilization;

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

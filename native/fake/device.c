/* device.c: enumeration, identity and memory of devices. */
#define _GNU_SOURCE
#include "driver.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

static struct fake_device devices[FAKE_GPU_COUNT_MAX];
static int count;

static void format_uuid(const uint8_t uuid[16], char text[48])
{
    char *p = text + sprintf(text, "GPU-");
    for (int i = 0; i < 16; i++) {
        p += sprintf(p, i == 4 || i == 6 || i == 8 || i == 10 ? "-%02x" : "%02x", uuid[i]);
    }
}

/* One entry of CUDA_VISIBLE_DEVICES: an index, or an unambiguous beginning of a UUID. -1: names nothing. */
static int resolve_entry(const char *entry, const int *present, int present_count)
{
    if (strncasecmp(entry, "GPU-", 4) != 0) {
        char *end;
        long index = strtol(entry, &end, 10);
        return end != entry && index >= 0 && index < present_count ? present[index] : -1;
    }
    int found = -1;
    for (int i = 0; i < present_count; i++) {
        char uuid[48];
        format_uuid(fake_machine.gpus[present[i]].uuid, uuid);
        if (strncasecmp(uuid, entry, strlen(entry)) == 0) {
            if (found >= 0) {
                return -1;
            }
            found = present[i];
        }
    }
    return found;
}

static bool listed(int gpu)
{
    for (int i = 0; i < count; i++) {
        if (devices[i].gpu == gpu) {
            return true;
        }
    }
    return false;
}

static void add(int gpu)
{
    devices[count++] = (struct fake_device){ .gpu = gpu, .hw = &fake_machine.gpus[gpu] };
}

/* Devices behind the first entry that names nothing stay invisible. */
static void add_visible(const char *list, const int *present, int present_count)
{
    char entry[64];
    while (*list != '\0' && count < FAKE_GPU_COUNT_MAX) {
        list += strspn(list, " ");
        size_t length = strcspn(list, ",");
        if (length >= sizeof entry) {
            return;
        }
        memcpy(entry, list, length);
        entry[length] = '\0';
        entry[strcspn(entry, " ")] = '\0';
        int gpu = resolve_entry(entry, present, present_count);
        if (gpu < 0 || listed(gpu)) {
            return;
        }
        add(gpu);
        list += length + (list[length] == ',');
    }
}

int devices_enumerate(void)
{
    int present[FAKE_GPU_COUNT_MAX];
    int present_count = machine_visible(&fake_machine, present);
    const char *list = getenv("CUDA_VISIBLE_DEVICES");
    count = 0;
    if (list != NULL) {
        add_visible(list, present, present_count);
        return count;
    }
    for (int i = 0; i < present_count; i++) {
        add(present[i]);
    }
    return count;
}

int device_count(void)
{
    return count;
}

struct fake_device *device_at(int ordinal)
{
    return ordinal >= 0 && ordinal < count ? &devices[ordinal] : NULL;
}

CUresult device_charge(int ordinal, size_t bytes)
{
    switch (machine_charge(&fake_machine, devices[ordinal].gpu, bytes)) {
    case MACHINE_OK:
        return CUDA_SUCCESS;
    case MACHINE_FULL:
        return CUDA_ERROR_OUT_OF_MEMORY;
    default:
        return CUDA_ERROR_OPERATING_SYSTEM;
    }
}

void device_discharge(int ordinal, size_t bytes)
{
    machine_discharge(&fake_machine, devices[ordinal].gpu, bytes);
}

CUresult device_memory(int ordinal, uint64_t *free_bytes, uint64_t *total_bytes)
{
    const struct fake_gpu *hw = devices[ordinal].hw;
    uint64_t total = hw->memory_bytes - hw->reserved_bytes;
    uint64_t used = machine_used(&fake_machine, devices[ordinal].gpu);
    *total_bytes = total;
    *free_bytes = used < total ? total - used : 0;
    return CUDA_SUCCESS;
}

static CUresult get(CUdevice *device, int ordinal)
{
    NOT_NULL(device);
    REQUIRE(device_at(ordinal) != NULL, CUDA_ERROR_INVALID_DEVICE);
    *device = ordinal;
    return CUDA_SUCCESS;
}

static CUresult get_count(int *out)
{
    NOT_NULL(out);
    *out = count;
    return CUDA_SUCCESS;
}

static CUresult get_name(char *name, int length, CUdevice device)
{
    REQUIRE(name != NULL && length > 0, CUDA_ERROR_INVALID_VALUE);
    REQUIRE(device_at(device) != NULL, CUDA_ERROR_INVALID_DEVICE);
    snprintf(name, (size_t)length, "%s", devices[device].hw->name);
    return CUDA_SUCCESS;
}

static CUresult get_uuid(CUuuid *uuid, CUdevice device)
{
    NOT_NULL(uuid);
    REQUIRE(device_at(device) != NULL, CUDA_ERROR_INVALID_DEVICE);
    memcpy(uuid->bytes, devices[device].hw->uuid, sizeof uuid->bytes);
    return CUDA_SUCCESS;
}

static CUresult total_memory(uint64_t *bytes, CUdevice device)
{
    NOT_NULL(bytes);
    REQUIRE(device_at(device) != NULL, CUDA_ERROR_INVALID_DEVICE);
    *bytes = devices[device].hw->memory_bytes - devices[device].hw->reserved_bytes;
    return CUDA_SUCCESS;
}

/* The ABI before CUDA 3.2 has 32 bits for sizes: more memory than that shows as the largest number. */
static CUresult total_memory32(unsigned *bytes, CUdevice device)
{
    NOT_NULL(bytes);
    uint64_t total;
    TRY(total_memory(&total, device));
    *bytes = total < UINT32_MAX ? (unsigned)total : UINT32_MAX;
    return CUDA_SUCCESS;
}

static CUresult pci_bus_id(char *text, int length, CUdevice device)
{
    REQUIRE(text != NULL && length > 0, CUDA_ERROR_INVALID_VALUE);
    REQUIRE(device_at(device) != NULL, CUDA_ERROR_INVALID_DEVICE);
    const struct fake_gpu *hw = devices[device].hw;
    int needed = snprintf(text, (size_t)length, "%04x:%02x:%02x.0", hw->pci_domain, hw->pci_bus, hw->pci_device);
    return needed < length ? CUDA_SUCCESS : CUDA_ERROR_INVALID_VALUE;
}

static CUresult by_pci_bus_id(CUdevice *device, const char *text)
{
    NOT_NULL(device);
    NOT_NULL(text);
    unsigned domain = 0, bus, slot;
    bool parsed = sscanf(text, "%x:%x:%x", &domain, &bus, &slot) == 3 ||
                  (domain = 0, sscanf(text, "%x:%x", &bus, &slot) == 2);
    REQUIRE(parsed, CUDA_ERROR_INVALID_VALUE);
    for (int i = 0; i < count; i++) {
        const struct fake_gpu *hw = devices[i].hw;
        if (hw->pci_domain == domain && hw->pci_bus == bus && hw->pci_device == slot) {
            *device = i;
            return CUDA_SUCCESS;
        }
    }
    return CUDA_ERROR_INVALID_DEVICE;
}

static CUresult compute_capability(int *major, int *minor, CUdevice device)
{
    NOT_NULL(major);
    NOT_NULL(minor);
    REQUIRE(device_at(device) != NULL, CUDA_ERROR_INVALID_DEVICE);
    *major = (int)devices[device].hw->compute_major;
    *minor = (int)devices[device].hw->compute_minor;
    return CUDA_SUCCESS;
}

static CUresult can_access_peer(int *out, CUdevice device, CUdevice peer)
{
    NOT_NULL(out);
    REQUIRE(device_at(device) != NULL && device_at(peer) != NULL, CUDA_ERROR_INVALID_DEVICE);
    *out = 0;
    return CUDA_SUCCESS;
}

CUAPI CUresult cuDeviceGet(CUdevice *device, int ordinal) { DRIVER_CALL(get(device, ordinal)); }
CUAPI CUresult cuDeviceGetCount(int *out) { DRIVER_CALL(get_count(out)); }
CUAPI CUresult cuDeviceGetName(char *name, int length, CUdevice device) { DRIVER_CALL(get_name(name, length, device)); }
CUAPI CUresult cuDeviceGetUuid(CUuuid *uuid, CUdevice device) { DRIVER_CALL(get_uuid(uuid, device)); }
CUAPI CUresult cuDeviceGetUuid_v2(CUuuid *uuid, CUdevice device) { DRIVER_CALL(get_uuid(uuid, device)); }
CUAPI CUresult cuDeviceTotalMem(unsigned *bytes, CUdevice device) { DRIVER_CALL(total_memory32(bytes, device)); }
CUAPI CUresult cuDeviceTotalMem_v2(uint64_t *bytes, CUdevice device) { DRIVER_CALL(total_memory(bytes, device)); }
CUAPI CUresult cuDeviceGetPCIBusId(char *text, int length, CUdevice d) { DRIVER_CALL(pci_bus_id(text, length, d)); }
CUAPI CUresult cuDeviceGetByPCIBusId(CUdevice *d, const char *text) { DRIVER_CALL(by_pci_bus_id(d, text)); }
CUAPI CUresult cuDeviceComputeCapability(int *major, int *minor, CUdevice device)
{
    DRIVER_CALL(compute_capability(major, minor, device));
}
CUAPI CUresult cuDeviceCanAccessPeer(int *out, CUdevice device, CUdevice peer)
{
    DRIVER_CALL(can_access_peer(out, device, peer));
}

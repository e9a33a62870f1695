/* nvml_device.c: enumeration, identity and memory of devices. */
#define _GNU_SOURCE
#include "nvml.h"

#include <stdio.h>
#include <string.h>
#include <strings.h>


enum { UUID_TEXT = 1, UUID_BYTES = 2 };      /* nvmlUUIDType_t */

static void format_uuid(const uint8_t uuid[16], char text[48])
{
    char *p = text + sprintf(text, "GPU-");
    for (int i = 0; i < 16; i++) {
        p += sprintf(p, i == 4 || i == 6 || i == 8 || i == 10 ? "-%02x" : "%02x", uuid[i]);
    }
}

static void format_bus_id(const struct fake_gpu *hw, int domain_digits, char text[32])
{
    snprintf(text, 32, "%0*X:%02X:%02X.0", domain_digits, hw->pci_domain, hw->pci_bus & 0xff, hw->pci_device & 0xff);
}

NVMLAPI nvmlReturn nvmlDeviceGetCount_v2(unsigned *out)
{
    NVML_TRY(nvml_ready());
    NVML_OUT(out);
    *out = (unsigned)nvml_device_count();
    return NVML_SUCCESS;
}

NVMLAPI nvmlReturn nvmlDeviceGetCount(unsigned *out) { return nvmlDeviceGetCount_v2(out); }

NVMLAPI nvmlReturn nvmlDeviceGetHandleByIndex_v2(unsigned index, nvmlDevice *out)
{
    NVML_TRY(nvml_ready());
    NVML_OUT(out);
    nvmlDevice device = index < FAKE_GPU_COUNT_MAX ? nvml_device_at((int)index) : NULL;
    NVML_REQUIRE(device != NULL, NVML_ERROR_INVALID_ARGUMENT);
    NVML_TRY(nvml_check(device));
    *out = device;
    return NVML_SUCCESS;
}

NVMLAPI nvmlReturn nvmlDeviceGetHandleByIndex(unsigned index, nvmlDevice *out)
{
    return nvmlDeviceGetHandleByIndex_v2(index, out);
}

NVMLAPI nvmlReturn nvmlDeviceGetHandleByUUID(const char *text, nvmlDevice *out)
{
    NVML_TRY(nvml_ready());
    NVML_OUT(text);
    NVML_OUT(out);
    for (int i = 0; i < nvml_device_count(); i++) {
        char uuid[48];
        format_uuid(nvml_device_at(i)->hw->uuid, uuid);
        if (strcasecmp(uuid, text) == 0) {
            *out = nvml_device_at(i);
            return NVML_SUCCESS;
        }
    }
    return NVML_ERROR_NOT_FOUND;
}

NVMLAPI nvmlReturn nvmlDeviceGetHandleByUUIDV(const nvmlUuid_v1 *uuid, nvmlDevice *out)
{
    NVML_TRY(nvml_ready());
    NVML_OUT(uuid);
    NVML_OUT(out);
    NVML_REQUIRE(uuid->version == NVML_UUID_V1, NVML_ERROR_ARGUMENT_VERSION_MISMATCH);
    NVML_REQUIRE(uuid->type == UUID_TEXT || uuid->type == UUID_BYTES, NVML_ERROR_INVALID_ARGUMENT);
    char text[48];
    if (uuid->type == UUID_BYTES) {
        format_uuid((const uint8_t *)uuid->value, text);
    } else {
        snprintf(text, sizeof text, "%.*s", (int)sizeof uuid->value, uuid->value);
    }
    return nvmlDeviceGetHandleByUUID(text, out);
}

/* A board's number, made of what tells the modelled boards apart. */
static void format_serial(const struct fake_gpu *hw, char text[32])
{
    snprintf(text, 32, "16%02u%03u%06u", hw->brand % 100, hw->pci_bus % 1000, hw->minor % 1000000);
}

NVMLAPI nvmlReturn nvmlDeviceGetSerial(nvmlDevice device, char *buffer, unsigned length)
{
    NVML_TRY(nvml_check(device));
    char text[32];
    format_serial(device->hw, text);
    return nvml_text(buffer, length, text);
}

NVMLAPI nvmlReturn nvmlDeviceGetHandleBySerial(const char *serial, nvmlDevice *out)
{
    NVML_TRY(nvml_ready());
    NVML_OUT(serial);
    NVML_OUT(out);
    for (int i = 0; i < nvml_device_count(); i++) {
        char text[32];
        format_serial(nvml_device_at(i)->hw, text);
        if (strcmp(text, serial) == 0) {
            *out = nvml_device_at(i);
            return NVML_SUCCESS;
        }
    }
    return NVML_ERROR_NOT_FOUND;
}

NVMLAPI nvmlReturn nvmlDeviceGetHandleByPciBusId_v2(const char *text, nvmlDevice *out)
{
    NVML_TRY(nvml_ready());
    NVML_OUT(text);
    NVML_OUT(out);
    unsigned domain = 0, bus, slot;
    if (sscanf(text, "%x:%x:%x", &domain, &bus, &slot) != 3) {
        domain = 0;
        NVML_REQUIRE(sscanf(text, "%x:%x", &bus, &slot) == 2, NVML_ERROR_INVALID_ARGUMENT);
    }
    for (int i = 0; i < nvml_device_count(); i++) {
        const struct fake_gpu *hw = nvml_device_at(i)->hw;
        if (hw->pci_domain == domain && hw->pci_bus == bus && hw->pci_device == slot) {
            *out = nvml_device_at(i);
            return NVML_SUCCESS;
        }
    }
    return NVML_ERROR_NOT_FOUND;
}

NVMLAPI nvmlReturn nvmlDeviceGetHandleByPciBusId(const char *text, nvmlDevice *out)
{
    return nvmlDeviceGetHandleByPciBusId_v2(text, out);
}

NVMLAPI nvmlReturn nvmlDeviceGetName(nvmlDevice device, char *buffer, unsigned length)
{
    NVML_TRY(nvml_check(device));
    return nvml_text(buffer, length, device->hw->name);
}

NVMLAPI nvmlReturn nvmlDeviceGetUUID(nvmlDevice device, char *buffer, unsigned length)
{
    NVML_TRY(nvml_check(device));
    char uuid[48];
    format_uuid(device->hw->uuid, uuid);
    return nvml_text(buffer, length, uuid);
}

static unsigned index_of(nvmlDevice device)
{
    return (unsigned)(device - nvml_device_at(0));
}

NVML_NUMBER(nvmlDeviceGetIndex, unsigned, index_of(device))
NVML_NUMBER(nvmlDeviceGetMinorNumber, unsigned, device->hw->minor)
NVML_NUMBER(nvmlDeviceGetBrand, unsigned, device->hw->brand)
NVML_NUMBER(nvmlDeviceGetArchitecture, unsigned, device->hw->architecture)
NVML_NUMBER(nvmlDeviceGetDisplayActive, unsigned, 0)
NVML_NUMBER(nvmlDeviceGetDisplayMode, unsigned, 0)
NVML_NUMBER(nvmlDeviceGetMultiGpuBoard, unsigned, 0)
NVML_NUMBER(nvmlDeviceGetBoardId, unsigned, device->hw->pci_bus)
NVML_NUMBER(nvmlDeviceGetMaxMigDeviceCount, unsigned, 0)
NVML_NUMBER(nvmlDeviceIsMigDeviceHandle, unsigned, 0)
NVML_NUMBER(nvmlDeviceGetVirtualizationMode, unsigned, 0)

NVMLAPI nvmlReturn nvmlDeviceGetCudaComputeCapability(nvmlDevice device, int *major, int *minor)
{
    NVML_TRY(nvml_check(device));
    NVML_OUT(major);
    NVML_OUT(minor);
    *major = (int)device->hw->compute_major;
    *minor = (int)device->hw->compute_minor;
    return NVML_SUCCESS;
}

NVMLAPI nvmlReturn nvmlDeviceGetEccMode(nvmlDevice device, unsigned *current, unsigned *pending)
{
    NVML_TRY(nvml_check(device));
    NVML_OUT(current);
    NVML_OUT(pending);
    *current = *pending = 1;
    return NVML_SUCCESS;
}

NVMLAPI nvmlReturn nvmlDeviceOnSameBoard(nvmlDevice a, nvmlDevice b, int *same)
{
    NVML_TRY(nvml_check(a));
    NVML_TRY(nvml_check(b));
    NVML_OUT(same);
    *same = a == b;
    return NVML_SUCCESS;
}

/* What processes hold, read without a lock: a moment's sum may exceed what there is, an answer must not. */
static uint64_t used_by_processes(nvmlDevice device)
{
    uint64_t used = machine_used(&nvml_machine, device->gpu);
    uint64_t room = device->hw->memory_bytes - device->hw->reserved_bytes;
    return used < room ? used : room;
}

/* The first version counts what the driver keeps for itself as used, the second tells it apart. */
NVMLAPI nvmlReturn nvmlDeviceGetMemoryInfo(nvmlDevice device, nvmlMemory *out)
{
    NVML_TRY(nvml_check(device));
    NVML_OUT(out);
    uint64_t used = used_by_processes(device) + device->hw->reserved_bytes;
    *out = (nvmlMemory){ .total = device->hw->memory_bytes, .free = device->hw->memory_bytes - used, .used = used };
    return NVML_SUCCESS;
}

NVMLAPI nvmlReturn nvmlDeviceGetMemoryInfo_v2(nvmlDevice device, nvmlMemory_v2 *out)
{
    NVML_TRY(nvml_check(device));
    NVML_OUT(out);
    NVML_REQUIRE(out->version == NVML_MEMORY_V2, NVML_ERROR_ARGUMENT_VERSION_MISMATCH);
    uint64_t used = used_by_processes(device);
    uint64_t reserved = device->hw->reserved_bytes, total = device->hw->memory_bytes;
    *out = (nvmlMemory_v2){ .version = NVML_MEMORY_V2, .total = total, .reserved = reserved,
                            .free = total - reserved - used, .used = used };
    return NVML_SUCCESS;
}

NVMLAPI nvmlReturn nvmlDeviceGetPciInfo_v3(nvmlDevice device, nvmlPciInfo_v3 *out)
{
    NVML_TRY(nvml_check(device));
    NVML_OUT(out);
    const struct fake_gpu *hw = device->hw;
    char text[32];
    *out = (nvmlPciInfo_v3){ .domain = hw->pci_domain, .bus = hw->pci_bus, .device = hw->pci_device };
    format_bus_id(hw, 4, text);
    memcpy(out->bus_id_legacy, text, strnlen(text, sizeof out->bus_id_legacy - 1));
    format_bus_id(hw, 8, out->bus_id);
    return NVML_SUCCESS;
}

NVMLAPI nvmlReturn nvmlDeviceGetPciInfo_v2(nvmlDevice device, nvmlPciInfo_v2 *out)
{
    nvmlPciInfo_v3 info;
    NVML_OUT(out);
    NVML_TRY(nvmlDeviceGetPciInfo_v3(device, &info));
    *out = (nvmlPciInfo_v2){ .domain = info.domain, .bus = info.bus, .device = info.device };
    memcpy(out->bus_id, info.bus_id_legacy, sizeof out->bus_id);
    return NVML_SUCCESS;
}

NVMLAPI nvmlReturn nvmlDeviceGetPciInfo(nvmlDevice device, nvmlPciInfo_v1 *out)
{
    nvmlPciInfo_v3 info;
    NVML_OUT(out);
    NVML_TRY(nvmlDeviceGetPciInfo_v3(device, &info));
    *out = (nvmlPciInfo_v1){ .domain = info.domain, .bus = info.bus, .device = info.device };
    memcpy(out->bus_id, info.bus_id_legacy, sizeof out->bus_id);
    return NVML_SUCCESS;
}

/* What a program is shown of its share: by CUDA and by NVML. */
#include "behave.h"

void check_info_v1(void)
{
    unsigned free_bytes = 0, total = 0;
    uint64_t address;
    CHECK(cuMemGetInfo(&free_bytes, &total) == 0 && total == limit && free_bytes == limit);
    CHECK(cuMemAlloc_v2(&address, 64 * MIB) == 0);
    CHECK(cuMemGetInfo(&free_bytes, &total) == 0 && total == limit && free_bytes == limit - 64 * MIB);
}

void check_info_v2(void)
{
    size_t free_bytes = 0, total = 0;
    uint64_t address;
    CHECK(cuMemGetInfo_v2(&free_bytes, &total) == 0 && total == limit && free_bytes == limit);
    CHECK(cuMemAlloc_v2(&address, 64 * MIB) == 0);
    CHECK(cuMemGetInfo_v2(&free_bytes, &total) == 0 && total == limit && free_bytes == limit - 64 * MIB);
}

void check_total_v1(void)
{
    unsigned total = 0;
    CHECK(cuDeviceTotalMem(&total, 0) == 0 && total == limit);
    total = SENTINEL;
    CHECK(cuDeviceTotalMem(&total, 99) != 0 && total == SENTINEL);
}

void check_total_v2(void)
{
    size_t total = 0;
    CHECK(cuDeviceTotalMem_v2(&total, 0) == 0 && total == limit);
    total = SENTINEL;
    CHECK(cuDeviceTotalMem_v2(&total, 99) != 0 && total == SENTINEL);
}

struct nvml_memory {
    unsigned long long total, free, used;
};

struct nvml_memory_v2 {
    unsigned version;
    unsigned long long total, reserved, free, used;
};

static void *nvml(const char *name)
{
    void *library = dlopen("libnvidia-ml.so.1", RTLD_NOW);
    CHECK(library != NULL);
    void *function = dlsym(library, name);
    CHECK(function != NULL);
    return function;
}

static handle_t nvml_device(void)
{
    handle_t device;
    CHECK(((int (*)(void))nvml("nvmlInit_v2"))() == 0);
    CHECK(((int (*)(unsigned, handle_t *))nvml("nvmlDeviceGetHandleByIndex_v2"))(0, &device) == 0);
    return device;
}

void check_nvml(void)
{
    int (*info)(handle_t, struct nvml_memory *) = (int (*)(handle_t, struct nvml_memory *))nvml("nvmlDeviceGetMemoryInfo");
    handle_t device = nvml_device();
    struct nvml_memory memory;
    uint64_t address;
    CHECK(info(device, &memory) == 0 && memory.total == limit && memory.used == 0 && memory.free == limit);
    CHECK(cuMemAlloc_v2(&address, 64 * MIB) == 0);
    CHECK(info(device, &memory) == 0 && memory.total == limit && memory.used == 64 * MIB);
    CHECK(memory.free == limit - 64 * MIB);
    CHECK(info(device, NULL) != 0);
}

void check_nvml_v2(void)
{
    int (*info)(handle_t, struct nvml_memory_v2 *) =
        (int (*)(handle_t, struct nvml_memory_v2 *))nvml("nvmlDeviceGetMemoryInfo_v2");
    handle_t device = nvml_device();
    struct nvml_memory_v2 memory = {.version = 40 | 2 << 24};
    uint64_t address;
    CHECK(cuMemAlloc_v2(&address, 64 * MIB) == 0);
    CHECK(info(device, &memory) == 0 && memory.version == (40 | 2 << 24));
    CHECK(memory.total == limit && memory.used == 64 * MIB && memory.reserved == 0);
    CHECK(memory.free == limit - 64 * MIB);
    memory = (struct nvml_memory_v2){.version = 7, .total = SENTINEL};
    CHECK(info(device, &memory) == 25 && memory.total == SENTINEL);
    CHECK(info(device, NULL) != 0);
}

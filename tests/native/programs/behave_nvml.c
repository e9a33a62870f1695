/* What NVML shows of memory, and what its checks need to know about the modelled driver. */
#include <fcntl.h>
#include <unistd.h>

#include "../../../native/fake/machine_layout.h"
#include "behave_nvml.h"

extern char **environ;

void *nvml(const char *name)
{
    void *library = dlopen("libnvidia-ml.so.1", RTLD_NOW);
    CHECK(library != NULL);
    void *function = dlsym(library, name);
    CHECK(function != NULL);
    return function;
}

handle_t nvml_device(unsigned index)
{
    handle_t device;
    CHECK(NVML("nvmlInit_v2", void)() == 0);
    CHECK(NVML("nvmlDeviceGetHandleByIndex_v2", unsigned, handle_t *)(index, &device) == 0);
    return device;
}

/* This process's account in the modelled hardware, for change. */
static void change_account(void (*change)(struct fake_slot *slot))
{
    struct fake_slot slot;
    int descriptor = open(getenv("FRACGPU_FAKE_GPU"), O_RDWR);
    CHECK(descriptor >= 0);
    for (off_t offset = FAKE_SLOTS_OFFSET; offset < (off_t)FAKE_FILE_BYTES; offset += FAKE_SLOT_BYTES) {
        CHECK(pread(descriptor, &slot, sizeof(slot), offset) == sizeof(slot));
        if (slot.state == FAKE_SLOT_LIVE && slot.pid == getpid()) {
            change(&slot);
            CHECK(pwrite(descriptor, &slot, sizeof(slot), offset) == sizeof(slot));
        }
    }
    close(descriptor);
}

static void hold_more(struct fake_slot *slot)
{
    slot->used_bytes[0] += 100 * MIB;
}

static void draw(struct fake_slot *slot)
{
    slot->graphics_mask = 1;
}

static void be_served(struct fake_slot *slot)
{
    slot->mps_mask = 1;
}

static void work(struct fake_slot *slot)
{
    slot->sm_percent[0] = 40;
    slot->memory_percent[0] = 20;
}

void driver_holds_more(void)
{
    change_account(hold_more);
}

void driver_sees_graphics(void)
{
    change_account(draw);
}

void driver_sees_mps(void)
{
    change_account(be_served);
}

void driver_sees_work(void)
{
    change_account(work);
}

void driver_keeps_accounts(void)
{
    uint32_t on = 1;
    int descriptor = open(getenv("FRACGPU_FAKE_GPU"), O_RDWR);
    off_t offset = FAKE_GPUS_OFFSET + offsetof(struct fake_gpu, accounting_mode);
    CHECK(descriptor >= 0 && pwrite(descriptor, &on, sizeof(on), offset) == sizeof(on));
    close(descriptor);
}

void forget_allocation(int gpu)
{
    const char *const uuids[] = {"GPU-11111111-", "GPU-66666666-"};
    char key[64];
    for (char **entry = environ; *entry != NULL; entry++) {
        if (strncmp(*entry, "FRACGPU_ALLOCATION_", 19) != 0 || strstr(*entry, uuids[gpu]) == NULL)
            continue;
        snprintf(key, sizeof(key), "%.*s", (int)(strchr(*entry, '=') - *entry), *entry);
        CHECK(unsetenv(key) == 0);
        return;
    }
    CHECK(!"allocation");
}

struct nvml_memory {
    unsigned long long total, free, used;
};

struct nvml_memory_v2 {
    unsigned version;
    unsigned long long total, reserved, free, used;
};

void check_nvml(void)
{
    int (*info)(handle_t, struct nvml_memory *) = nvml("nvmlDeviceGetMemoryInfo");
    handle_t device = nvml_device(0);
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
    int (*info)(handle_t, struct nvml_memory_v2 *) = nvml("nvmlDeviceGetMemoryInfo_v2");
    handle_t device = nvml_device(0);
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

/* The card's window, of which no more is ours than we have: nothing, as nothing is charged. */
void check_bar1(void)
{
    int (*info)(handle_t, struct nvml_memory *) = nvml("nvmlDeviceGetBAR1MemoryInfo");
    handle_t device = nvml_device(0);
    struct nvml_memory memory = {.used = SENTINEL};
    CHECK(info(device, &memory) == 0 && memory.used == charged() && memory.free == memory.total - memory.used);
    CHECK(info(device, NULL) != 0);
}

/* The modelled driver is too old to have limits, as most are. */
void check_memory_limits(void)
{
    struct memory_limits {
        const char *cgroup;
        unsigned long long soft, hard, used;
    } limits = {"/sys/fs/cgroup", SENTINEL, SENTINEL, SENTINEL};
    /* The shim's mutant answers that there is no such function. */
    int (*get)(handle_t, struct memory_limits *) = nvml("nvmlDeviceGetMemoryLimits_v1");
    handle_t device = nvml_device(0);
    uint64_t address;
    CHECK(cuMemAlloc_v2(&address, 64 * MIB) == 0);
    CHECK(get(device, NULL) == INVALID_ARGUMENT);
    CHECK(get(device, &limits) == 0 && limits.soft == 0 && limits.hard == limit && limits.used == 64 * MIB);
}

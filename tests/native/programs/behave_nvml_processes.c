/* Which processes NVML lists, in every layout. */
#include <unistd.h>

#include "behave_nvml.h"

enum { ROOM = 4 };

struct process_v1 {
    unsigned pid;
    unsigned long long used;
};

struct process_v2 {
    unsigned pid;
    unsigned long long used;
    unsigned gpu_instance, compute_instance;
};

struct detail {
    unsigned pid;
    unsigned long long used;
    unsigned gpu_instance, compute_instance;
    unsigned long long used_protected;
};

struct detail_list {
    unsigned version, mode, count;
    struct detail *processes;
};

typedef int list_t(handle_t device, unsigned *count, void *infos);

/* This process is listed with what it is charged, which is less than the driver sees. */
static void check_listed(list_t *list, handle_t device, size_t entry_bytes)
{
    struct process_v2 infos[ROOM];
    unsigned count = 0;
    CHECK(list(device, &count, NULL) == INSUFFICIENT_SIZE && count == 1);
    count = ROOM;
    CHECK(list(device, &count, infos) == 0 && count == 1);
    CHECK(infos[0].pid == (unsigned)getpid() && infos[0].used == 64 * MIB);
    if (entry_bytes == sizeof(struct process_v2))
        CHECK(infos[0].gpu_instance == UINT32_MAX && infos[0].compute_instance == UINT32_MAX);
    CHECK(list(device, NULL, infos) == INVALID_ARGUMENT);
    CHECK(list(NULL, &count, infos) == INVALID_ARGUMENT);
}

static void hold_something(void)
{
    uint64_t address;
    CHECK(cuMemAlloc_v2(&address, 64 * MIB) == 0);
    driver_holds_more();
}

static void check_compute(const char *name, size_t entry_bytes)
{
    list_t *list = nvml(name);
    handle_t device = nvml_device(0);
    unsigned count = 0;
    CHECK(list(device, &count, NULL) == 0 && count == 0);
    hold_something();
    check_listed(list, device, entry_bytes);
}

/* Listed is what the driver calls so, and only then. */
static void check_special(const char *name, size_t entry_bytes, void (*become)(void))
{
    list_t *list = nvml(name);
    handle_t device = nvml_device(0);
    unsigned count = 0;
    hold_something();
    CHECK(list(device, &count, NULL) == 0 && count == 0);
    become();
    check_listed(list, device, entry_bytes);
}

void check_compute_v1(void) { check_compute("nvmlDeviceGetComputeRunningProcesses", sizeof(struct process_v1)); }
void check_compute_v2(void) { check_compute("nvmlDeviceGetComputeRunningProcesses_v2", sizeof(struct process_v2)); }
void check_compute_v3(void) { check_compute("nvmlDeviceGetComputeRunningProcesses_v3", sizeof(struct process_v2)); }

#define SPECIAL(check, name, layout, become) \
    void check(void) \
    { \
        check_special(name, sizeof(struct layout), become); \
    }

SPECIAL(check_graphics_v1, "nvmlDeviceGetGraphicsRunningProcesses", process_v1, driver_sees_graphics)
SPECIAL(check_graphics_v2, "nvmlDeviceGetGraphicsRunningProcesses_v2", process_v2, driver_sees_graphics)
SPECIAL(check_graphics_v3, "nvmlDeviceGetGraphicsRunningProcesses_v3", process_v2, driver_sees_graphics)
SPECIAL(check_mps_v1, "nvmlDeviceGetMPSComputeRunningProcesses", process_v1, driver_sees_mps)
SPECIAL(check_mps_v2, "nvmlDeviceGetMPSComputeRunningProcesses_v2", process_v2, driver_sees_mps)
SPECIAL(check_mps_v3, "nvmlDeviceGetMPSComputeRunningProcesses_v3", process_v2, driver_sees_mps)

void check_detail_list(void)
{
    int (*list)(handle_t, struct detail_list *) = nvml("nvmlDeviceGetRunningProcessDetailList");
    const unsigned version = sizeof(struct detail_list) | 1 << 24;
    handle_t device = nvml_device(0);
    struct detail infos[ROOM];
    hold_something();
    driver_sees_mps();
    for (unsigned mode = 0; mode < 4; mode++) {
        struct detail_list asked = {.version = version, .mode = mode};
        bool empty = mode == 1;                              /* graphics */
        CHECK(list(device, &asked) == (empty ? 0 : INSUFFICIENT_SIZE) && asked.count == !empty);
        asked = (struct detail_list){.version = version, .mode = mode, .count = ROOM, .processes = infos};
        CHECK(list(device, &asked) == 0 && asked.count == !empty);
        CHECK(empty || (infos[0].pid == (unsigned)getpid() && infos[0].used == 64 * MIB));
    }
    struct detail_list wrong = {.version = version + 1, .count = ROOM, .processes = infos};
    CHECK(list(device, &wrong) == VERSION_MISMATCH && wrong.count == ROOM);
    wrong = (struct detail_list){.version = version, .mode = 4};
    CHECK(list(device, &wrong) == INVALID_ARGUMENT);
    CHECK(list(device, NULL) == INVALID_ARGUMENT);
}

/* Which GPUs NVML shows, and under which numbers: those of the container's allocations. */
#include "behave_nvml.h"

static const char *const uuids[] = {"GPU-11111111-2222-3333-4444-555555555555",
                                    "GPU-66666666-7777-8888-9999-aaaaaaaaaaaa"};

static bool is_gpu(handle_t device, int gpu)
{
    char text[96];
    CHECK(NVML("nvmlDeviceGetUUID", handle_t, char *, unsigned)(device, text, sizeof(text)) == 0);
    return strcmp(text, uuids[gpu]) == 0;
}

static void check_count(const char *name)
{
    int (*get)(unsigned *) = nvml(name);
    unsigned count = SENTINEL;
    nvml_device(0);
    CHECK(get(&count) == 0 && count == 2);
    CHECK(get(NULL) == INVALID_ARGUMENT);
    forget_allocation(0);
    CHECK(get(&count) == 0 && count == 1);
    CHECK(NVML("nvmlShutdown", void)() == 0);
    count = SENTINEL;
    CHECK(get(&count) == 1 && count == SENTINEL);            /* not initialized */
}

void check_count_v1(void) { check_count("nvmlDeviceGetCount"); }
void check_count_v2(void) { check_count("nvmlDeviceGetCount_v2"); }

static void check_by_index(const char *name)
{
    int (*get)(unsigned, handle_t *) = nvml(name);
    handle_t device;
    nvml_device(0);
    CHECK(get(0, &device) == 0 && is_gpu(device, 0));
    CHECK(get(1, &device) == 0 && is_gpu(device, 1));
    CHECK(get(0, NULL) == INVALID_ARGUMENT);
    forget_allocation(0);
    CHECK(get(0, &device) == 0 && is_gpu(device, 1));
    device = NULL;
    CHECK(get(1, &device) == INVALID_ARGUMENT && device == NULL);
    CHECK(get(UINT32_MAX, &device) == INVALID_ARGUMENT && device == NULL);
    /* Without any allocation nothing is known of any GPU: none is hidden, and none answers with numbers. */
    forget_allocation(1);
    CHECK(get(0, &device) == 0 && is_gpu(device, 0));
    unsigned long long memory[3];
    CHECK(NVML("nvmlDeviceGetMemoryInfo", handle_t, unsigned long long *)(device, memory) == 999);
}

void check_by_index_v1(void) { check_by_index("nvmlDeviceGetHandleByIndex"); }
void check_by_index_v2(void) { check_by_index("nvmlDeviceGetHandleByIndex_v2"); }

/* `key` names a GPU in whatever way the function wants it. */
static void check_by_key(const char *name, const void *const keys[2])
{
    int (*get)(const void *, handle_t *) = nvml(name);
    handle_t device;
    for (int gpu = 0; gpu < 2; gpu++)
        CHECK(get(keys[gpu], &device) == 0 && is_gpu(device, gpu));
    CHECK(get(keys[0], NULL) == INVALID_ARGUMENT && get(NULL, &device) == INVALID_ARGUMENT);
    forget_allocation(0);
    device = NULL;
    CHECK(get(keys[0], &device) == NOT_FOUND && device == NULL);
    CHECK(get(keys[1], &device) == 0 && is_gpu(device, 1));
}

void check_by_uuid(void)
{
    nvml_device(0);
    check_by_key("nvmlDeviceGetHandleByUUID", (const void *const *)uuids);
}

void check_by_uuid_struct(void)
{
    struct uuid {
        unsigned version, type;
        char value[41];
    } keys[2];
    nvml_device(0);
    for (int gpu = 0; gpu < 2; gpu++) {
        keys[gpu] = (struct uuid){.version = sizeof(struct uuid) | 1 << 24, .type = 1};
        strcpy(keys[gpu].value, uuids[gpu]);
    }
    check_by_key("nvmlDeviceGetHandleByUUIDV", (const void *[2]){&keys[0], &keys[1]});
    keys[1].version++;
    handle_t device;
    CHECK(NVML("nvmlDeviceGetHandleByUUIDV", void *, handle_t *)(&keys[1], &device) == VERSION_MISMATCH);
}

static const void *const buses[] = {"00000000:01:00.0", "00000000:02:00.0"};

void check_by_bus_v1(void)
{
    nvml_device(0);
    check_by_key("nvmlDeviceGetHandleByPciBusId", buses);
}

void check_by_bus_v2(void)
{
    nvml_device(0);
    check_by_key("nvmlDeviceGetHandleByPciBusId_v2", buses);
}

void check_by_serial(void)
{
    char serials[2][30];
    for (unsigned gpu = 0; gpu < 2; gpu++)
        CHECK(NVML("nvmlDeviceGetSerial", handle_t, char *, unsigned)(nvml_device(gpu), serials[gpu], 30) == 0);
    check_by_key("nvmlDeviceGetHandleBySerial", (const void *[2]){serials[0], serials[1]});
}

void check_index(void)
{
    int (*get)(handle_t, unsigned *) = nvml("nvmlDeviceGetIndex");
    handle_t first = nvml_device(0), second = nvml_device(1);
    unsigned index = SENTINEL;
    CHECK(get(first, &index) == 0 && index == 0);
    CHECK(get(second, &index) == 0 && index == 1);
    CHECK(get(second, NULL) == INVALID_ARGUMENT);
    forget_allocation(0);
    CHECK(get(second, &index) == 0 && index == 0);
    index = SENTINEL;
    CHECK(get(first, &index) == NOT_FOUND && index == SENTINEL);
}

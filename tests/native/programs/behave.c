/*
 * behave SYMBOL LIMIT_MIB STATE...: does the library behave as the hook of SYMBOL must make it behave.
 *
 * LIMIT_MIB is the limit of GPU 0 (and of GPU 1 where there is one); the STATE files are read as the host reads them.
 * Exit 0: yes. 1: no, and stderr says where. 3: SYMBOL has no check. The same program runs on the library that lacks
 * that one hook, where it must answer 1.
 */
#include <fcntl.h>
#include <unistd.h>

#include "../../../native/abi/fracgpu_abi.h"
#include "driver_api.h"

static size_t limit;
static char **state_paths;

/* What this process, the only one, has charged on a GPU. */
static uint64_t charged_on(int device)
{
    struct fracgpu_slot slot;
    int descriptor = open(state_paths[device], O_RDONLY);
    CHECK(descriptor >= 0);
    CHECK(pread(descriptor, &slot, sizeof(slot), FRACGPU_STATE_HEADER_BYTES) == sizeof(slot));
    close(descriptor);
    CHECK(slot.state == FRACGPU_SLOT_LIVE && slot.pending_bytes == 0);
    return slot.committed_bytes;
}

static uint64_t charged(void)
{
    return charged_on(0);
}

static size_t shown_free(void)
{
    size_t free_bytes, total;
    CHECK(cuMemGetInfo_v2(&free_bytes, &total) == 0);
    CHECK(total == limit);
    return free_bytes;
}

/* ---- allocations: one structure per spelling ---- */

struct spelling {
    const char *name;
    int (*allocate)(uint64_t *result, size_t bytes);
    void (*release)(uint64_t result);
    size_t slack;                      /* how much more than asked for may be charged */
};

static handle_t own_pool;

static int alloc_v1(uint64_t *result, size_t bytes)
{
    unsigned address = (unsigned)*result;
    int code = cuMemAlloc(&address, (unsigned)bytes);
    *result = address;
    return code;
}

static int alloc_v2(uint64_t *result, size_t bytes) { return cuMemAlloc_v2(result, bytes); }
static int alloc_managed(uint64_t *result, size_t bytes) { return cuMemAllocManaged(result, bytes, 1); }
static int alloc_async(uint64_t *result, size_t bytes) { return cuMemAllocAsync(result, bytes, NULL); }
static int alloc_async_ptsz(uint64_t *result, size_t bytes) { return cuMemAllocAsync_ptsz(result, bytes, NULL); }
static int alloc_pool(uint64_t *result, size_t bytes) { return cuMemAllocFromPoolAsync(result, bytes, own_pool, NULL); }
static int alloc_pool_ptsz(uint64_t *result, size_t bytes)
{
    return cuMemAllocFromPoolAsync_ptsz(result, bytes, own_pool, NULL);
}

static int alloc_pitch_v1(uint64_t *result, size_t bytes)
{
    unsigned address = (unsigned)*result, pitch = SENTINEL;
    int code = cuMemAllocPitch(&address, &pitch, 1000, (unsigned)(bytes / 1024), 4);
    CHECK(code == 0 ? pitch >= 1000 : pitch == SENTINEL);
    *result = address;
    return code;
}

static int alloc_pitch_v2(uint64_t *result, size_t bytes)
{
    size_t pitch = SENTINEL;
    int code = cuMemAllocPitch_v2(result, &pitch, 1000, bytes / 1024, 4);
    CHECK(code == 0 ? pitch >= 1000 : pitch == SENTINEL);
    return code;
}

static const struct allocation_prop on_device = {.type = 1, .location = {.type = 1, .id = 0}};

static int alloc_create(uint64_t *result, size_t bytes) { return cuMemCreate(result, bytes, &on_device, 0); }

static void free_v1(uint64_t result) { CHECK(cuMemFree((unsigned)result) == 0); }
static void free_v2(uint64_t result) { CHECK(cuMemFree_v2(result) == 0); }
static void release_handle(uint64_t result) { CHECK(cuMemRelease(result) == 0); }
static void free_async(uint64_t result)
{
    CHECK(cuMemFreeAsync(result, NULL) == 0);
    CHECK(cuStreamSynchronize(NULL) == 0);
}

static const struct spelling spellings[] = {
    {"cuMemAlloc", alloc_v1, free_v1, 0},
    {"cuMemAlloc_v2", alloc_v2, free_v2, 0},
    {"cuMemAllocPitch", alloc_pitch_v1, free_v1, 0},
    {"cuMemAllocPitch_v2", alloc_pitch_v2, free_v2, 0},
    {"cuMemAllocManaged", alloc_managed, free_v2, 0},
    {"cuMemCreate", alloc_create, release_handle, 0},
    {"cuMemAllocAsync", alloc_async, free_async, 32 * MIB},
    {"cuMemAllocAsync_ptsz", alloc_async_ptsz, free_async, 32 * MIB},
    {"cuMemAllocFromPoolAsync", alloc_pool, free_async, 32 * MIB},
    {"cuMemAllocFromPoolAsync_ptsz", alloc_pool_ptsz, free_async, 32 * MIB},
};

static void check_charged(const struct spelling *spelling, size_t bytes)
{
    CHECK(charged() >= bytes && charged() <= bytes + spelling->slack);
    CHECK(shown_free() == limit - charged());
}

static void check_allocation(const struct spelling *spelling)
{
    uint64_t first = 0, second = 0, refused = SENTINEL;
    size_t half = limit / 2;
    CHECK(charged() == 0 && shown_free() == limit);
    CHECK(spelling->allocate(&first, half) == 0);
    check_charged(spelling, half);
    CHECK(spelling->allocate(&refused, half + 64 * MIB) == OUT_OF_MEMORY);
    CHECK(refused == SENTINEL);
    check_charged(spelling, half);
    CHECK(spelling->allocate(&second, half / 2) == 0);
    check_charged(spelling, half + half / 2);
    spelling->release(first);
    check_charged(spelling, half / 2);
    spelling->release(second);
    CHECK(charged() == 0 && shown_free() == limit);
    /* Refusals cost nothing: all of it can be had again, and then nothing more. */
    CHECK(spelling->allocate(&first, limit) == 0);
    CHECK(charged() == limit && shown_free() == 0);
    CHECK(spelling->allocate(&refused, 2 * MIB) == OUT_OF_MEMORY);
    CHECK(refused == SENTINEL);
    spelling->release(first);
    CHECK(charged() == 0 && shown_free() == limit);
}

/* ---- frees ---- */

static void keep_pool_memory(handle_t pool)
{
    uint64_t threshold = UINT64_MAX;
    CHECK(cuMemPoolSetAttribute(pool, 4, &threshold) == 0);
}

static void check_free_v1(void)
{
    uint64_t address = 0;
    CHECK(alloc_v1(&address, 64 * MIB) == 0 && charged() == 64 * MIB);
    CHECK(cuMemFree((unsigned)address) == 0);
    CHECK(charged() == 0);
    CHECK(cuMemFree(0) == 0);
}

static void check_free_v2(void)
{
    uint64_t address = 0;
    CHECK(cuMemAlloc_v2(&address, 64 * MIB) == 0 && charged() == 64 * MIB);
    CHECK(cuMemFree_v2(address + 64) != 0 && charged() == 64 * MIB);
    CHECK(cuMemFree_v2(address) == 0 && charged() == 0);
    CHECK(cuMemFree_v2(0) == 0);
    CHECK(cuMemFree_v2(address) != 0 && charged() == 0);
    /* Memory of a pool may be freed this way too, and shrinks the pool at once. */
    CHECK(cuMemAllocAsync(&address, 64 * MIB, NULL) == 0 && charged() == 64 * MIB);
    CHECK(cuMemFree_v2(address) == 0 && charged() == 0);
}

static void check_free_async(int (*release)(uint64_t, handle_t))
{
    uint64_t address = 0, again = 0;
    CHECK(cuMemAllocAsync(&address, 64 * MIB, NULL) == 0 && charged() == 64 * MIB);
    CHECK(release(address, NULL) == 0);
    /* The pool still holds it, and gives it out again without growing. */
    CHECK(cuMemAllocAsync(&again, 64 * MIB, NULL) == 0 && charged() == 64 * MIB);
    CHECK(release(again, NULL) == 0);
    CHECK(cuStreamSynchronize(NULL) == 0);
    CHECK(charged() == 0);
    /* A pool that is gone keeps what is not freed, and that alone. */
    CHECK(alloc_pool(&address, 32 * MIB) == 0 && cuMemPoolDestroy(own_pool) == 0);
    CHECK(charged() == 32 * MIB);
    CHECK(release(address, NULL) == 0 && charged() == 0);
}

static void check_release(void)
{
    uint64_t handle = 0;
    CHECK(alloc_create(&handle, 64 * MIB) == 0 && charged() == 64 * MIB);
    CHECK(cuMemRelease(handle) == 0 && charged() == 0);
    CHECK(cuMemRelease(handle) != 0 && charged() == 0);
}

static uint64_t mapped(uint64_t handle, size_t bytes)
{
    uint64_t address = 0;
    CHECK(cuMemAddressReserve(&address, bytes, 0, 0, 0) == 0);
    CHECK(cuMemMap(address, bytes, 0, handle, 0) == 0);
    return address;
}

static void check_map(void)
{
    uint64_t handle = 0;
    CHECK(alloc_create(&handle, 64 * MIB) == 0);
    uint64_t address = mapped(handle, 64 * MIB);
    CHECK(cuMemRelease(handle) == 0);
    CHECK(charged() == 64 * MIB);
    CHECK(cuMemUnmap(address, 64 * MIB) == 0 && charged() == 0);
    CHECK(cuMemMap(address, 64 * MIB, 0, handle, 0) != 0 && charged() == 0);
}

static void check_unmap(void)
{
    uint64_t handle = 0;
    CHECK(alloc_create(&handle, 64 * MIB) == 0);
    uint64_t address = mapped(handle, 64 * MIB);
    CHECK(cuMemRelease(handle) == 0 && charged() == 64 * MIB);
    CHECK(cuMemUnmap(address + 2 * MIB, 2 * MIB) != 0 && charged() == 64 * MIB);
    CHECK(cuMemUnmap(address, 64 * MIB) == 0 && charged() == 0);
}

static void check_retain(void)
{
    uint64_t handle = 0, retained = 0;
    CHECK(alloc_create(&handle, 64 * MIB) == 0);
    uint64_t address = mapped(handle, 64 * MIB);
    CHECK(cuMemRetainAllocationHandle(&retained, (void *)(uintptr_t)(address + 2 * MIB)) == 0);
    CHECK(cuMemUnmap(address, 64 * MIB) == 0 && cuMemRelease(handle) == 0);
    CHECK(charged() == 64 * MIB);
    CHECK(cuMemRelease(retained) == 0 && charged() == 0);
}

static void check_trim(void)
{
    uint64_t address = 0;
    handle_t pool;
    CHECK(cuDeviceGetMemPool(&pool, 0) == 0);
    keep_pool_memory(pool);
    CHECK(cuMemAllocAsync(&address, 64 * MIB, NULL) == 0);
    CHECK(cuMemFreeAsync(address, NULL) == 0 && cuStreamSynchronize(NULL) == 0);
    CHECK(charged() == 64 * MIB);
    CHECK(cuMemPoolTrimTo(pool, 0) == 0 && charged() == 0);
}

static void check_pool_destroy(void)
{
    uint64_t freed = 0, kept = 0;
    keep_pool_memory(own_pool);
    CHECK(alloc_pool(&freed, 64 * MIB) == 0 && alloc_pool(&kept, 32 * MIB) == 0);
    CHECK(cuMemFreeAsync(freed, NULL) == 0 && cuStreamSynchronize(NULL) == 0);
    CHECK(charged() == 96 * MIB);
    CHECK(cuMemPoolDestroy(own_pool) == 0);
    CHECK(charged() == 32 * MIB);
    CHECK(cuMemFreeAsync(kept, NULL) == 0 && charged() == 0);
}

static void check_pool_create(void)
{
    /* A pool of the other GPU, used from a stream of this one: charged where its memory lies. */
    struct pool_props props = {.type = 1, .location = {.type = 1, .id = 1}};
    handle_t pool;
    uint64_t address = 0, refused = SENTINEL;
    CHECK(cuMemPoolCreate(&pool, &props) == 0);
    CHECK(cuMemAllocFromPoolAsync(&address, 64 * MIB, pool, NULL) == 0);
    CHECK(charged_on(0) == 0 && charged_on(1) == 64 * MIB);
    CHECK(cuMemAllocFromPoolAsync(&refused, limit, pool, NULL) == OUT_OF_MEMORY && refused == SENTINEL);
}

/* ---- calls after which a pool may have shrunk ---- */

static void check_settling(int (*synchronize)(void))
{
    uint64_t address = 0;
    CHECK(cuMemAllocAsync(&address, 64 * MIB, NULL) == 0 && charged() == 64 * MIB);
    CHECK(cuMemFreeAsync(address, NULL) == 0);
    CHECK(synchronize() == 0);
    CHECK(charged() == 0);
}

static int synchronize_stream(void) { return cuStreamSynchronize(NULL); }
static int synchronize_stream_ptsz(void) { return cuStreamSynchronize_ptsz(NULL); }
static int synchronize_context(void)
{
    handle_t context;
    CHECK(cuDevicePrimaryCtxRetain(&context, 0) == 0);
    return cuCtxSynchronize_v2(context);
}

static int synchronize_event(void)
{
    handle_t event;
    CHECK(cuEventCreate(&event, 0) == 0 && cuEventRecord(event, NULL) == 0);
    return cuEventSynchronize(event);
}

/* ---- views ---- */

static void check_info_v1(void)
{
    unsigned free_bytes = 0, total = 0;
    uint64_t address;
    CHECK(cuMemGetInfo(&free_bytes, &total) == 0 && total == limit && free_bytes == limit);
    CHECK(cuMemAlloc_v2(&address, 64 * MIB) == 0);
    CHECK(cuMemGetInfo(&free_bytes, &total) == 0 && total == limit && free_bytes == limit - 64 * MIB);
}

static void check_info_v2(void)
{
    size_t free_bytes = 0, total = 0;
    uint64_t address;
    CHECK(cuMemGetInfo_v2(&free_bytes, &total) == 0 && total == limit && free_bytes == limit);
    CHECK(cuMemAlloc_v2(&address, 64 * MIB) == 0);
    CHECK(cuMemGetInfo_v2(&free_bytes, &total) == 0 && total == limit && free_bytes == limit - 64 * MIB);
}

static void check_total_v1(void)
{
    unsigned total = 0;
    CHECK(cuDeviceTotalMem(&total, 0) == 0 && total == limit);
    total = SENTINEL;
    CHECK(cuDeviceTotalMem(&total, 99) != 0 && total == SENTINEL);
}

static void check_total_v2(void)
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

static void check_nvml(void)
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

static void check_nvml_v2(void)
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

/* ---- the way CUDA's runtime finds the driver ---- */

static void check_routed(int (*allocate)(uint64_t *, size_t))
{
    uint64_t address = SENTINEL;
    CHECK(allocate != NULL);
    CHECK(allocate(&address, limit + 2 * MIB) == OUT_OF_MEMORY && address == SENTINEL);
    CHECK(allocate(&address, 64 * MIB) == 0 && charged() == 64 * MIB);
}

static void check_route_v1(void)
{
    void *function = NULL;
    CHECK(cuGetProcAddress("cuMemAlloc", &function, 11030, 0) == 0);
    check_routed((int (*)(uint64_t *, size_t))function);
}

static void check_route_v2(void)
{
    void *function = NULL;
    int status = -1;
    CHECK(cuGetProcAddress_v2("cuMemAlloc", &function, 12000, 0, &status) == 0 && status == 0);
    check_routed((int (*)(uint64_t *, size_t))function);
    CHECK(function == (void *)cuMemAlloc_v2);
    /* The driver knows what a version and flags mean. */
    CHECK(cuGetProcAddress_v2("cuMemAlloc", &function, 2000, 0, &status) == 0 && function == (void *)cuMemAlloc);
    CHECK(cuGetProcAddress_v2("cuMemAllocAsync", &function, 12000, 2, &status) == 0);
    CHECK(function == (void *)cuMemAllocAsync_ptsz);
    CHECK(cuGetProcAddress_v2("cuMemAllocAsync", &function, 12000, 1, &status) == 0);
    CHECK(function == (void *)cuMemAllocAsync);
    CHECK(cuGetProcAddress_v2("cuGetProcAddress", &function, 12000, 0, NULL) == 0);
    CHECK(function == (void *)cuGetProcAddress_v2);
    /* What is not hooked is the driver's own, and what is not there is not there. */
    CHECK(cuGetProcAddress_v2("cuDriverGetVersion", &function, 12000, 0, &status) == 0);
    CHECK(function == (void *)cuDriverGetVersion);
    status = -1;
    CHECK(cuGetProcAddress_v2("cuNoSuchFunction", &function, 12000, 0, &status) == 0 ? function == NULL : true);
    CHECK(status == 1);
    cuGetProcAddress_v2("", &function, 0, 0, &status);
    CHECK(cuGetProcAddress_v2("cuMemAlloc", NULL, 12000, 0, &status) != 0);
}

static void check_init(void)
{
    /* This process is attached, and has its slot, before it sees a GPU. */
    CHECK(charged() == 0);
}

struct check {
    const char *name;
    void (*run)(void);
};

static void check_free_async_legacy(void) { check_free_async(cuMemFreeAsync); }
static void check_free_async_ptsz(void) { check_free_async(cuMemFreeAsync_ptsz); }
static void check_settling_stream(void) { check_settling(synchronize_stream); }
static void check_settling_stream_ptsz(void) { check_settling(synchronize_stream_ptsz); }
static void check_settling_context(void) { check_settling(cuCtxSynchronize); }
static void check_settling_context_v2(void) { check_settling(synchronize_context); }
static void check_settling_event(void) { check_settling(synchronize_event); }

static const struct check checks[] = {
    {"cuInit", check_init},
    {"cuMemFree", check_free_v1},
    {"cuMemFree_v2", check_free_v2},
    {"cuMemFreeAsync", check_free_async_legacy},
    {"cuMemFreeAsync_ptsz", check_free_async_ptsz},
    {"cuMemRelease", check_release},
    {"cuMemMap", check_map},
    {"cuMemUnmap", check_unmap},
    {"cuMemRetainAllocationHandle", check_retain},
    {"cuMemPoolTrimTo", check_trim},
    {"cuMemPoolDestroy", check_pool_destroy},
    {"cuMemPoolCreate", check_pool_create},
    {"cuStreamSynchronize", check_settling_stream},
    {"cuStreamSynchronize_ptsz", check_settling_stream_ptsz},
    {"cuCtxSynchronize", check_settling_context},
    {"cuCtxSynchronize_v2", check_settling_context_v2},
    {"cuEventSynchronize", check_settling_event},
    {"cuMemGetInfo", check_info_v1},
    {"cuMemGetInfo_v2", check_info_v2},
    {"cuDeviceTotalMem", check_total_v1},
    {"cuDeviceTotalMem_v2", check_total_v2},
    {"cuGetProcAddress", check_route_v1},
    {"cuGetProcAddress_v2", check_route_v2},
    {"nvmlDeviceGetMemoryInfo", check_nvml},
    {"nvmlDeviceGetMemoryInfo_v2", check_nvml_v2},
};

int main(int count, char **arguments)
{
    CHECK(count >= 4);
    const char *symbol = arguments[1];
    limit = strtoul(arguments[2], NULL, 10) * MIB;
    state_paths = arguments + 3;
    load_driver();
    CHECK(cuInit(0) == 0);
    if (strcmp(symbol, "cuInit") != 0)
        use_device(0);
    for (size_t index = 0; index < sizeof(spellings) / sizeof(spellings[0]); index++) {
        if (strcmp(spellings[index].name, symbol) != 0)
            continue;
        struct pool_props props = {.type = 1, .location = {.type = 1, .id = 0}};
        CHECK(cuMemPoolCreate(&own_pool, &props) == 0);
        check_allocation(&spellings[index]);
        return 0;
    }
    for (size_t index = 0; index < sizeof(checks) / sizeof(checks[0]); index++) {
        if (strcmp(checks[index].name, symbol) != 0)
            continue;
        struct pool_props props = {.type = 1, .location = {.type = 1, .id = 0}};
        if (strcmp(symbol, "cuInit") != 0)
            CHECK(cuMemPoolCreate(&own_pool, &props) == 0);
        checks[index].run();
        return 0;
    }
    return 3;
}

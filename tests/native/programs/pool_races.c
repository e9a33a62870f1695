/*
 * pool_races CASE DIRECTORY: the interceptor's pools on a driver made for one order of events. Where two threads meet,
 * the driver's function runs what the other thread does in the middle of the first one's call.
 */
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "../../../native/interceptor/devices.h"
#include "../../../native/interceptor/pool_record.h"
#include "../../../native/interceptor/pools.h"
#include "../../../native/interceptor/real.h"

#define MIB (UINT64_C(1) << 20)
#define CHECK(condition) \
    do { \
        if (!(condition)) { \
            fprintf(stderr, "%s:%d: %s\n", __FILE__, __LINE__, #condition); \
            exit(1); \
        } \
    } while (0)

/* A pool of the driver is its place in this array, counted from 1. */
static uint64_t reserved[4];
static uintptr_t pools_made;
static CUdeviceptr addresses;
static void (*meanwhile)(void);
static CUresult destroying_gives;

static struct fg_process process = {.state = FG_ATTACHED};
struct fg_process *fg_process_region = &process;

struct fg_process *fg_process_attach(void)
{
    return NULL;
}

static void let_other_thread_act(void)
{
    void (*act)(void) = meanwhile;
    meanwhile = NULL;
    if (act != NULL)
        act();
}

static int get_device(CUdevice *device)
{
    *device = 0;
    return CUDA_SUCCESS;
}

static int get_uuid(struct fg_uuid *uuid, CUdevice device)
{
    memset(uuid, device, sizeof(*uuid));
    return CUDA_SUCCESS;
}

static int is_capturing(CUstream stream, int *status)
{
    *status = CU_STREAM_CAPTURE_STATUS_NONE;
    return stream == NULL ? CUDA_SUCCESS : CUDA_ERROR_NOT_FOUND;
}

static int create_pool(CUmemoryPool *pool, const struct fg_pool_props *props)
{
    *pool = (CUmemoryPool)++pools_made;
    return props->location.id;
}

static int destroy_pool(CUmemoryPool pool)
{
    if (destroying_gives == CUDA_SUCCESS)
        reserved[(uintptr_t)pool] = 0;
    let_other_thread_act();
    return destroying_gives;
}

static int get_attribute(CUmemoryPool pool, int attribute, void *value)
{
    if (attribute == CU_MEMPOOL_ATTR_LOCATION_TYPE)
        return CUDA_ERROR_NOT_FOUND;
    *(uint64_t *)value = attribute == CU_MEMPOOL_ATTR_USED_MEM_CURRENT ? 2 * MIB : reserved[(uintptr_t)pool];
    return CUDA_SUCCESS;
}

static int allocate(CUdeviceptr *address, size_t bytes, CUmemoryPool pool, CUstream stream)
{
    let_other_thread_act();
    if (reserved[(uintptr_t)pool] < bytes)
        reserved[(uintptr_t)pool] += 32 * MIB;
    *address = addresses += bytes;
    return stream == NULL ? CUDA_SUCCESS : CUDA_ERROR_NOT_FOUND;
}

void *fg_real_addresses[FG_REAL_COUNT];

void *fg_real_look_up(enum fg_real_id id)
{
    switch (id) {
    case FG_REAL_cuCtxGetDevice:
        return (void *)get_device;
    case FG_REAL_cuDeviceGetUuid_v2:
        return (void *)get_uuid;
    case FG_REAL_cuStreamIsCapturing:
        return (void *)is_capturing;
    case FG_REAL_cuMemPoolCreate:
        return (void *)create_pool;
    case FG_REAL_cuMemPoolDestroy:
        return (void *)destroy_pool;
    case FG_REAL_cuMemPoolGetAttribute:
        return (void *)get_attribute;
    case FG_REAL_cuMemAllocFromPoolAsync:
        return (void *)allocate;
    default:
        return NULL;
    }
}

static void attach(const char *directory)
{
    static struct fracgpu_config config = {.magic = FRACGPU_CONFIG_MAGIC, .abi_version = FRACGPU_ABI_VERSION,
                                           .header_bytes = sizeof(struct fracgpu_config), .generation = 2,
                                           .memory_limit_bytes = 1024 * MIB, .allocation_id = "a"};
    struct fracgpu_state_header header = {.magic = FRACGPU_STATE_MAGIC, .abi_version = FRACGPU_ABI_VERSION,
                                          .header_bytes = FRACGPU_STATE_HEADER_BYTES, .slot_count = 4,
                                          .slot_stride_bytes = FRACGPU_SLOT_STRIDE_BYTES};
    char path[FG_PATH_BYTES];
    snprintf(path, sizeof(path), "%s/state", directory);
    int descriptor = open(path, O_RDWR | O_CREAT | O_TRUNC, 0600);
    CHECK(write(descriptor, &header, sizeof(header)) == sizeof(header) && ftruncate(descriptor, 1 << 16) == 0);
    close(descriptor);
    CHECK(fg_page_adopt(&process.members[0].page, &config) == FG_OK);
    CHECK(fg_ledger_attach(&process.members[0].ledger, path, header.device_uuid) == FG_OK);
    process.member_count = process.group_count = 1;
    process.groups[0] = (struct fg_group){.count = 1, .members = {&process.members[0]}};
}

static uint64_t charged(void)
{
    return fg_ledger_scan(&process.members[0].ledger).committed;
}

static CUmemoryPool new_pool(void)
{
    static const struct fg_pool_props props = {.allocation_type = 1, .location = {CU_MEM_LOCATION_TYPE_DEVICE, 0}};
    CUmemoryPool pool;
    CHECK(fg_hook_cuMemPoolCreate(&pool, &props) == CUDA_SUCCESS);
    return pool;
}

static CUdeviceptr new_memory(CUmemoryPool pool)
{
    CUdeviceptr address;
    CHECK(fg_hook_cuMemAllocFromPoolAsync(&address, 2 * MIB, pool, NULL) == CUDA_SUCCESS);
    return address;
}

static void forget_pointer(CUdeviceptr address)
{
    struct fg_value value;
    CHECK(fg_table_take(&process.pointers, address, &value));
    fg_pool_pointer_freed(&process, &value);
}

/* ---- one thread destroys a pool, another frees its last pointer and makes a pool of its own ---- */

static CUdeviceptr last_pointer;

static void free_last_and_make_another(void)
{
    forget_pointer(last_pointer);
    new_memory(new_pool());
    CHECK(charged() >= 32 * MIB);
}

static void destroy_while_last_is_freed(void)
{
    CUmemoryPool pool = new_pool();
    last_pointer = new_memory(pool);
    CHECK(charged() == 32 * MIB);
    meanwhile = free_last_and_make_another;
    CHECK(fg_hook_cuMemPoolDestroy(pool) == destroying_gives);
    CHECK(fg_pool_find(&process, (CUmemoryPool)2) != NULL);
    CHECK((fg_pool_find(&process, pool) == NULL) == (destroying_gives == CUDA_SUCCESS));
    CHECK(charged() == reserved[1] + reserved[2]);
    /* The record of a destroyed pool is free now, and was not given away in the middle. */
    CHECK(fg_pool_find(&process, new_pool()) == &process.pools[destroying_gives == CUDA_SUCCESS ? 0 : 2]);
}

/* ---- one thread destroys a pool while another, in charge of it, has lost its CPU ---- */

static void destroy_what_another_is_in_charge_of(void)
{
    CUmemoryPool pool = new_pool();
    forget_pointer(new_memory(pool));
    process.pools[0].requests = 1;
    CHECK(fg_hook_cuMemPoolDestroy(pool) == CUDA_SUCCESS);
    CHECK(fg_pool_find(&process, pool) == NULL && charged() == 32 * MIB);
    fg_pool_leave(&process, &process.pools[0]);
    CHECK(charged() == 0 && process.pools[0].handle == 0);
}

/* ---- one thread allocates in the rest of a block; the pool has just given that block up, which another one sees ---- */

static void settle_after_shrinking(void)
{
    fg_pools_settle();
    CHECK(charged() >= 32 * MIB);
}

static void take_rest_of_a_block_that_is_gone(void)
{
    CUmemoryPool pool = new_pool();
    CUdeviceptr address = new_memory(pool);
    CHECK(charged() == 32 * MIB && reserved[1] == 32 * MIB);
    new_memory(pool);
    CHECK(charged() == 32 * MIB);
    forget_pointer(address);
    reserved[1] = 0;
    meanwhile = settle_after_shrinking;
    new_memory(pool);
    CHECK(charged() == 32 * MIB && reserved[1] == 32 * MIB);
    /* Nothing stays in flight: once the pool is empty, nothing is charged. */
    reserved[1] = 0;
    fg_pools_settle();
    CHECK(charged() == 0);
}

int main(int count, char **arguments)
{
    CHECK(count == 3);
    attach(arguments[2]);
    destroying_gives = strcmp(arguments[1], "not destroyed") == 0 ? CUDA_ERROR_NOT_FOUND : CUDA_SUCCESS;
    if (strstr(arguments[1], "destroyed") != NULL)
        destroy_while_last_is_freed();
    else if (strcmp(arguments[1], "in charge") == 0)
        destroy_what_another_is_in_charge_of();
    else
        take_rest_of_a_block_that_is_gone();
    return 0;
}

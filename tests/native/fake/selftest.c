/*
 * selftest.c: the model GPU exercised from inside, for the sanitizers: every module, and above all the ways out that
 * fail. Built and run by `make sanitize-fake`; what the answers should be is the conformance suite's business, here it
 * is that none of them touches memory that is not its own.
 */
#define _GNU_SOURCE
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "array_shape.h"
#include "driver.h"

#define CHECK(condition) do { \
        if (!(condition)) { \
            fprintf(stderr, "selftest.c:%d: %s\n", __LINE__, #condition); \
            exit(1); \
        } \
    } while (0)
#define OK(call) CHECK((call) == CUDA_SUCCESS)

CUresult cuInit(unsigned flags);
CUresult cuDevicePrimaryCtxRetain(CUcontext *out, CUdevice device);
CUresult cuDevicePrimaryCtxReset_v2(CUdevice device);
CUresult cuCtxSetCurrent(CUcontext context);
CUresult cuCtxCreate_v2(CUcontext *out, unsigned flags, CUdevice device);
CUresult cuCtxDestroy_v2(CUcontext context);
CUresult cuMemAlloc_v2(CUdeviceptr *out, size_t size);
CUresult cuMemAllocManaged(CUdeviceptr *out, size_t size, unsigned flags);
CUresult cuMemFree_v2(CUdeviceptr address);
CUresult cuMemGetInfo_v2(uint64_t *free_bytes, uint64_t *total_bytes);
CUresult cuMemHostAlloc(void **out, size_t size, unsigned flags);
CUresult cuMemFreeHost(void *pointer);
CUresult cuMemcpyHtoD_v2(CUdeviceptr to, const void *from, size_t size);
CUresult cuMemcpyDtoH_v2(void *to, CUdeviceptr from, size_t size);
CUresult cuMemsetD16_v2(CUdeviceptr to, unsigned short value, size_t count);
CUresult cuMemAllocAsync(CUdeviceptr *out, size_t size, CUstream stream);
CUresult cuMemFreeAsync(CUdeviceptr address, CUstream stream);
CUresult cuMemPoolCreate(CUmemoryPool *out, const CUmemPoolProps *properties);
CUresult cuMemPoolDestroy(CUmemoryPool pool);
CUresult cuMemAllocFromPoolAsync(CUdeviceptr *out, size_t size, CUmemoryPool pool, CUstream stream);
CUresult cuStreamCreate(CUstream *out, unsigned flags);
CUresult cuStreamDestroy_v2(CUstream stream);
CUresult cuStreamSynchronize(CUstream stream);
CUresult cuEventCreate(CUevent *out, unsigned flags);
CUresult cuEventDestroy_v2(CUevent event);
CUresult cuEventQuery(CUevent event);
CUresult cuMemCreate(CUmemHandle *out, size_t size, const CUmemAllocationProp *properties, unsigned long long flags);
CUresult cuMemRelease(CUmemHandle handle);
CUresult cuMemAddressReserve(CUdeviceptr *out, size_t size, size_t align, CUdeviceptr hint, unsigned long long flags);
CUresult cuMemAddressFree(CUdeviceptr address, size_t size);
CUresult cuMemMap(CUdeviceptr address, size_t size, size_t offset, CUmemHandle handle, unsigned long long flags);
CUresult cuMemUnmap(CUdeviceptr address, size_t size);
CUresult cuMemSetAccess(CUdeviceptr address, size_t size, const CUmemAccessDesc *accesses, size_t count);
CUresult cuArray3DCreate_v2(CUarray *out, const CUarray3dDescriptor *descriptor);
CUresult cuArrayDestroy(CUarray array);
CUresult cuArrayGetPlane(CUarray *out, CUarray array, unsigned index);
CUresult cuMipmappedArrayCreate(CUmipmappedArray *out, const CUarray3dDescriptor *descriptor, unsigned levels);
CUresult cuMipmappedArrayDestroy(CUmipmappedArray mipmap);
CUresult cuMipmappedArrayGetLevel(CUarray *out, CUmipmappedArray mipmap, unsigned level);
CUresult cuMemcpy3D_v2(const CUmemcpy3D *copy);
CUresult cuPointerGetAttributes(unsigned count, const int *attributes, void **data, CUdeviceptr address);
CUresult cuGetProcAddress_v2(const char *name, void **out, int version, uint64_t flags, int *status);

static void make_machine(const char *path)
{
    static uint8_t image[FAKE_FILE_BYTES];
    struct fake_header header = { .magic = FAKE_MAGIC, .layout_version = FAKE_LAYOUT_VERSION, .gpu_count = 1,
                                  .file_bytes = FAKE_FILE_BYTES };
    struct fake_gpu gpu = { .name = "selftest", .memory_bytes = 256 * MIB, .context_bytes = 8 * MIB,
                            .compute_major = 9, .multiprocessors = 1 };
    memcpy(image, &header, sizeof header);
    memcpy(image + FAKE_GPUS_OFFSET, &gpu, sizeof gpu);
    int fd = open(path, O_RDWR | O_CREAT | O_TRUNC, 0600);
    CHECK(fd >= 0 && write(fd, image, sizeof image) == (ssize_t)sizeof image && close(fd) == 0);
}

static uint64_t free_now(void)
{
    uint64_t free_bytes, total;
    OK(cuMemGetInfo_v2(&free_bytes, &total));
    return free_bytes;
}

static void ordinary_memory(void)
{
    CUdeviceptr addresses[200];
    uint64_t before = free_now();
    for (size_t i = 0; i < 200; i++) {
        OK(cuMemAlloc_v2(&addresses[i], 1 + i * 3001));
        OK(cuMemsetD16_v2(addresses[i], (unsigned short)i, (1 + i * 3001) / 2));
    }
    for (size_t i = 0; i < 200; i += 2) {
        OK(cuMemFree_v2(addresses[i]));
        CHECK(cuMemFree_v2(addresses[i]) == CUDA_ERROR_INVALID_VALUE);
    }
    unsigned short back[3];
    OK(cuMemcpyDtoH_v2(back, addresses[199], sizeof back));
    CHECK(back[0] == 199 && back[2] == 199);
    for (size_t i = 1; i < 200; i += 2) {
        OK(cuMemFree_v2(addresses[i]));
    }
    CHECK(free_now() == before);
    CUdeviceptr none = 7;
    CHECK(cuMemAlloc_v2(&none, SIZE_MAX) == CUDA_ERROR_OUT_OF_MEMORY && none == 7);
    CHECK(cuMemAlloc_v2(NULL, 1) == CUDA_ERROR_INVALID_VALUE);
}

static void other_memory(void)
{
    CUdeviceptr managed;
    void *host;
    OK(cuMemAllocManaged(&managed, 3 * MIB, CU_ATTACH_GLOBAL));
    memset((void *)(uintptr_t)managed, 1, 3 * MIB);
    OK(cuMemFree_v2(managed));
    OK(cuMemHostAlloc(&host, 100, 0));
    memset(host, 2, 100);
    int attributes[] = { CU_POINTER_MEMORY_TYPE, CU_POINTER_DEVICE_ORDINAL };
    unsigned type = 0;
    int ordinal = 0;
    void *data[] = { &type, &ordinal };
    OK(cuPointerGetAttributes(2, attributes, data, (CUdeviceptr)(uintptr_t)host));
    CHECK(type == CU_MEMORYTYPE_HOST);
    OK(cuPointerGetAttributes(2, attributes, data, 12345));
    CHECK(type == 0 && ordinal == -2);
    OK(cuMemFreeHost(host));
}

static void pools(void)
{
    uint64_t before = free_now();
    CUdeviceptr addresses[20];
    CUmemPoolProps properties = { .alloc_type = 1, .location = { CU_LOCATION_DEVICE, 0 } };
    CUmemoryPool pool;
    OK(cuMemPoolCreate(&pool, &properties));
    for (size_t i = 0; i < 20; i++) {
        OK(i % 2 == 0 ? cuMemAllocAsync(&addresses[i], (i + 1) * 300000, NULL)
                      : cuMemAllocFromPoolAsync(&addresses[i], (i + 1) * 300000, pool, NULL));
    }
    OK(cuMemPoolDestroy(pool));
    CHECK(cuMemAllocFromPoolAsync(&addresses[0], 1, pool, NULL) == CUDA_ERROR_INVALID_VALUE);
    for (size_t i = 0; i < 20; i++) {
        OK(cuMemFreeAsync(addresses[i], NULL));
    }
    OK(cuStreamSynchronize(NULL));
    CHECK(free_now() == before);
    CHECK(cuMemAllocAsync(&addresses[0], 300 * MIB, NULL) == CUDA_ERROR_OUT_OF_MEMORY);
}

static void virtual_memory(void)
{
    uint64_t before = free_now();
    CUmemAllocationProp properties = { .type = 1, .location = { CU_LOCATION_DEVICE, 0 } };
    CUmemAccessDesc access = { { CU_LOCATION_DEVICE, 0 }, CU_ACCESS_READ_WRITE };
    CUmemHandle handle;
    CUdeviceptr address;
    char text[] = "virtual", back[sizeof text];
    OK(cuMemCreate(&handle, PHYSICAL_GRANULE, &properties, 0));
    OK(cuMemAddressReserve(&address, 2 * PHYSICAL_GRANULE, 0, 0, 0));
    OK(cuMemMap(address, PHYSICAL_GRANULE, 0, handle, 0));
    OK(cuMemMap(address + PHYSICAL_GRANULE, PHYSICAL_GRANULE, 0, handle, 0));
    OK(cuMemRelease(handle));
    OK(cuMemSetAccess(address, 2 * PHYSICAL_GRANULE, &access, 1));
    OK(cuMemcpyHtoD_v2(address + PHYSICAL_GRANULE, text, sizeof text));
    OK(cuMemcpyDtoH_v2(back, address, sizeof back));
    CHECK(memcmp(text, back, sizeof text) == 0);
    OK(cuMemUnmap(address, 2 * PHYSICAL_GRANULE));
    OK(cuMemAddressFree(address, 2 * PHYSICAL_GRANULE));
    CHECK(free_now() == before);
}

/* Every byte of an array, and one more. */
static void fill(CUarray array, size_t width, size_t height, size_t depth)
{
    uint8_t *content = calloc(width * height, depth);
    CUmemcpy3D copy = { .src_type = CU_MEMORYTYPE_HOST, .src_host = content, .dst_type = CU_MEMORYTYPE_ARRAY,
                        .dst_array = array, .width = width, .height = height, .depth = depth };
    OK(cuMemcpy3D_v2(&copy));
    copy.dst_z = 1;
    CHECK(cuMemcpy3D_v2(&copy) == CUDA_ERROR_INVALID_VALUE);
    free(content);
}

static void arrays(void)
{
    uint64_t before = free_now();
    CUcontext context;
    CUarray array, part;
    CUmipmappedArray mipmap;
    CUarray3dDescriptor nv12 = { 7, 5, 0, 0xb0, 1, 0 }, deep = { 33, 17, 9, 0x20, 4, 0 };
    CUarray3dDescriptor sparse = { 300, 300, 0, 0x01, 1, ARRAY_SPARSE }, huge = { 16384, 16384, 0, 0x20, 4, 0 };
    OK(cuArray3DCreate_v2(&array, &nv12));
    OK(cuArrayGetPlane(&part, array, 1));
    fill(part, 8, 3, 1);
    CHECK(cuArrayDestroy(part) == CUDA_ERROR_INVALID_HANDLE);
    OK(cuArrayDestroy(array));
    CHECK(cuArrayDestroy(part) == CUDA_ERROR_INVALID_HANDLE);
    CHECK(cuArray3DCreate_v2(&array, &huge) == CUDA_ERROR_OUT_OF_MEMORY);
    OK(cuCtxCreate_v2(&context, 0, 0));
    OK(cuArray3DCreate_v2(&array, &nv12));
    OK(cuArrayGetPlane(&part, array, 0));
    OK(cuArray3DCreate_v2(&array, &sparse));
    OK(cuMipmappedArrayCreate(&mipmap, &deep, 4));
    OK(cuMipmappedArrayGetLevel(&part, mipmap, 3));
    fill(part, 4 * 16, 2, 1);
    OK(cuMipmappedArrayGetLevel(&part, mipmap, 0));
    fill(part, 33 * 16, 17, 9);
    OK(cuCtxDestroy_v2(context));
    CHECK(cuMipmappedArrayDestroy(mipmap) == CUDA_ERROR_INVALID_HANDLE);
    CHECK(free_now() == before);
}

static void handles(void)
{
    CUstream stream;
    CUevent event;
    CUcontext context;
    CUdeviceptr address;
    OK(cuStreamCreate(&stream, 0));
    OK(cuEventCreate(&event, 0));
    OK(cuStreamDestroy_v2(stream));
    OK(cuEventDestroy_v2(event));
    CHECK(cuStreamSynchronize(stream) == CUDA_ERROR_INVALID_HANDLE);
    CHECK(cuEventQuery(event) == CUDA_ERROR_INVALID_HANDLE);
    OK(cuCtxCreate_v2(&context, 0, 0));
    OK(cuMemAlloc_v2(&address, 10));
    OK(cuMemAlloc_v2(&address, 10 * MIB));
    OK(cuCtxDestroy_v2(context));
    CHECK(cuCtxDestroy_v2(context) == CUDA_ERROR_CONTEXT_IS_DESTROYED);
    void *function;
    int status;
    OK(cuGetProcAddress_v2("cuMemAlloc", &function, 12000, 2, &status));
    CHECK(cuGetProcAddress_v2("", &function, 0, 0, &status) == CUDA_ERROR_NOT_FOUND && function == NULL);
}

static void forks(void)
{
    CUdeviceptr address;
    pid_t child = fork();
    if (child == 0) {
        bool refused = cuInit(0) == CUDA_ERROR_NOT_INITIALIZED;
        _exit(refused && cuMemAlloc_v2(&address, 1) == CUDA_ERROR_NOT_INITIALIZED ? 0 : 1);
    }
    int status;
    CHECK(waitpid(child, &status, 0) == child && WIFEXITED(status) && WEXITSTATUS(status) == 0);
    OK(cuMemAlloc_v2(&address, 1));
    OK(cuMemFree_v2(address));
}

/* Links to /dev/null stand for nodes that open; what bits and cgroups do to real ones is for tests with privileges. */
static void link_node(const char *directory, const char *name)
{
    char path[64];
    snprintf(path, sizeof path, "%s/%s", directory, name);
    CHECK(symlink("/dev/null", path) == 0);
}

static void unlink_node(const char *directory, const char *name)
{
    char path[64];
    snprintf(path, sizeof path, "%s/%s", directory, name);
    CHECK(unlink(path) == 0);
}

/* cuInit looks for nodes until it has succeeded: without any it has not. The directory goes, what was seen stays. */
static void device_nodes(void)
{
    static char endless[2 * PATH_MAX];
    char directory[] = "/tmp/fake-selftest-XXXXXX";
    CHECK(mkdtemp(directory) != NULL);
    memset(endless, 'x', sizeof endless - 1);
    setenv("FRACGPU_FAKE_DEVICES", endless, 1);
    CHECK(cuInit(0) == CUDA_ERROR_NO_DEVICE);
    setenv("FRACGPU_FAKE_DEVICES", directory, 1);
    CHECK(cuInit(0) == CUDA_ERROR_NO_DEVICE);
    link_node(directory, "nvidia0");
    CHECK(cuInit(0) == CUDA_ERROR_NO_DEVICE);
    link_node(directory, "nvidiactl");
    OK(cuInit(0));
    unlink_node(directory, "nvidia0");
    unlink_node(directory, "nvidiactl");
    CHECK(rmdir(directory) == 0);
    OK(cuInit(0));
}

int main(void)
{
    char path[] = "/tmp/fake-selftest-XXXXXX";
    int fd = mkstemp(path);
    CHECK(fd >= 0 && close(fd) == 0);
    make_machine(path);
    setenv("FRACGPU_FAKE_GPU", path, 1);
    unsetenv("CUDA_VISIBLE_DEVICES");
    unsetenv("FRACGPU_FAKE_VISIBLE");
    CUcontext context;
    CUdeviceptr address;
    CHECK(cuMemAlloc_v2(&address, 1) == CUDA_ERROR_NOT_INITIALIZED);
    device_nodes();
    OK(cuDevicePrimaryCtxRetain(&context, 0));
    OK(cuCtxSetCurrent(context));
    ordinary_memory();
    other_memory();
    pools();
    virtual_memory();
    arrays();
    handles();
    forks();
    OK(cuMemAlloc_v2(&address, 10 * MIB));
    OK(cuDevicePrimaryCtxReset_v2(0));
    CHECK(cuMemFree_v2(address) == CUDA_ERROR_CONTEXT_IS_DESTROYED);
    unlink(path);
    puts("fake selftest: passed");
    return 0;
}

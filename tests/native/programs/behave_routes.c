/* The ways to the driver: its start, and how CUDA's runtime finds its functions. */
#include "behave.h"

static void check_routed(int (*allocate)(uint64_t *, size_t))
{
    uint64_t address = SENTINEL;
    CHECK(allocate != NULL);
    CHECK(allocate(&address, limit + 2 * MIB) == OUT_OF_MEMORY && address == SENTINEL);
    CHECK(allocate(&address, 64 * MIB) == 0 && charged() == 64 * MIB);
}

void check_route_v1(void)
{
    void *function = NULL;
    CHECK(cuGetProcAddress("cuMemAlloc", &function, 11030, 0) == 0);
    check_routed((int (*)(uint64_t *, size_t))function);
}

void check_route_v2(void)
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

void check_route_v2_ptsz(void)
{
    void *function = NULL;
    int status = -1;
    CHECK(cuGetProcAddress_v2_ptsz("cuMemAlloc", &function, 12000, 0, &status) == 0 && status == 0);
    check_routed((int (*)(uint64_t *, size_t))function);
    /* Who asks this way means the stream of the thread, unless he says otherwise. */
    CHECK(cuGetProcAddress_v2_ptsz("cuMemAllocAsync", &function, 12000, 0, NULL) == 0);
    CHECK(function == (void *)cuMemAllocAsync_ptsz);
    CHECK(cuGetProcAddress_v2_ptsz("cuMemAllocAsync", &function, 12000, 1, NULL) == 0);
    CHECK(function == (void *)cuMemAllocAsync);
    CHECK(cuGetProcAddress_v2_ptsz("cuDriverGetVersion", &function, 12000, 0, &status) == 0);
    CHECK(function == (void *)cuDriverGetVersion);
}

void check_init(void)
{
    /* This process is attached, and has its slot, before it sees a GPU. */
    CHECK(charged() == 0);
}

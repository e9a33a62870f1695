/*
 * null_driver: a libcuda.so.1 that does next to nothing, so that what is left is the interceptor's own time. One GPU,
 * one context; addresses are counted upwards, or taken again when they were the last to be freed. The model, which
 * does the work, needs longer the more allocations there are, and drowns what is to be measured.
 */
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#define API __attribute__((visibility("default"))) int

enum { GRANULE = 4096 };

static const unsigned char uuid[16] = {0x11, 0x11, 0x11, 0x11, 0x22, 0x22, 0x33, 0x33,
                                       0x44, 0x44, 0x55, 0x55, 0x55, 0x55, 0x55, 0x55};
static uint64_t next_address = UINT64_C(1) << 40, last_freed;

API cuInit(unsigned flags) { return (int)flags; }
API cuDeviceGetCount(int *count) { *count = 1; return 0; }
API cuDeviceGetUuid_v2(void *out, int device) { memcpy(out, uuid, sizeof(uuid)); return device; }
API cuDevicePrimaryCtxRetain(void **context, int device) { *context = &next_address; return device; }
API cuCtxSetCurrent(void *context) { return context == NULL; }
API cuCtxGetDevice(int *device) { *device = 0; return 0; }
API cuStreamSynchronize(void *stream) { (void)stream; return 0; }
API cuThreadExchangeStreamCaptureMode(int *mode) { *mode = 0; return 0; }

API cuMemAlloc_v2(uint64_t *address, size_t bytes)
{
    (void)bytes;
    *address = last_freed != 0 ? last_freed : (next_address += GRANULE);
    last_freed = 0;
    return 0;
}

API cuMemFree_v2(uint64_t address)
{
    last_freed = address;
    return 0;
}

API cuMemGetInfo_v2(size_t *free_bytes, size_t *total_bytes)
{
    *free_bytes = *total_bytes = (size_t)64 << 30;
    return 0;
}

API cuGetProcAddress_v2(const char *symbol, void **function, int version, uint64_t flags, int *status)
{
    (void)version, (void)flags, (void)status;
    *function = symbol[3] == 'C' ? (void *)cuCtxGetDevice : (void *)cuMemGetInfo_v2;
    return 0;
}

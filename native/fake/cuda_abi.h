/* cuda_abi.h: the facts of the CUDA driver ABI that the model needs, written down independently of NVIDIA's headers. */
#ifndef FAKE_CUDA_ABI_H
#define FAKE_CUDA_ABI_H

#include <stddef.h>
#include <stdint.h>

typedef int CUresult;
typedef int CUdevice;
typedef unsigned long long CUdeviceptr;
typedef unsigned int CUdeviceptr32;       /* the ABI before CUDA 3.2 */
typedef struct fake_context *CUcontext;
typedef struct fake_stream *CUstream;
typedef struct fake_event *CUevent;
typedef struct fake_pool *CUmemoryPool;
typedef struct fake_array *CUarray;
typedef struct fake_mipmap *CUmipmappedArray;
typedef struct fake_external *CUexternalMemory;
typedef unsigned long long CUmemHandle;
typedef struct { unsigned char bytes[16]; } CUuuid;

#define CUDA_ERROR(code, name, text) name = code,
enum { CUDA_SUCCESS = 0,
#include "cuda_errors.def"
};
#undef CUDA_ERROR

enum { CU_LOCATION_INVALID = 0, CU_LOCATION_DEVICE = 1, CU_LOCATION_HOST = 2, CU_LOCATION_HOST_NUMA = 3,
       CU_LOCATION_HOST_NUMA_CURRENT = 4 };
typedef struct { int type; int id; } CUmemLocation;

typedef struct {
    int type;                             /* 1 pinned */
    int requested_handle_types;
    CUmemLocation location;
    void *win32_metadata;
    struct { unsigned char compression, rdma; unsigned short usage; unsigned char reserved[4]; } flags;
} CUmemAllocationProp;

enum { CU_HANDLE_NONE = 0, CU_HANDLE_FILE_DESCRIPTOR = 1, CU_HANDLE_FABRIC = 8 };

typedef struct { CUmemLocation location; int flags; } CUmemAccessDesc;

typedef struct { unsigned char bytes[64]; } CUipcHandle;      /* of memory and of events, and a pool's pointer */

typedef struct {
    int alloc_type;
    int handle_types;
    CUmemLocation location;
    void *win32_attributes;
    size_t max_size;
    unsigned short usage;
    unsigned char reserved[54];
} CUmemPoolProps;

typedef struct {
    size_t src_x, src_y;
    int src_type;
    const void *src_host;
    CUdeviceptr src_device;
    CUarray src_array;
    size_t src_pitch;
    size_t dst_x, dst_y;
    int dst_type;
    void *dst_host;
    CUdeviceptr dst_device;
    CUarray dst_array;
    size_t dst_pitch;
    size_t width, height;
} CUmemcpy2D;

typedef struct {
    size_t src_x, src_y, src_z, src_lod;
    int src_type;
    const void *src_host;
    CUdeviceptr src_device;
    CUarray src_array;
    void *reserved0;
    size_t src_pitch, src_height;
    size_t dst_x, dst_y, dst_z, dst_lod;
    int dst_type;
    void *dst_host;
    CUdeviceptr dst_device;
    CUarray dst_array;
    void *reserved1;
    size_t dst_pitch, dst_height;
    size_t width, height, depth;
} CUmemcpy3D;

typedef struct {
    int max_threads_per_block;
    int max_threads_dim[3];
    int max_grid_size[3];
    int shared_memory_per_block;
    int total_constant_memory;
    int simd_width;
    int memory_pitch;
    int registers_per_block;
    int clock_rate;
    int texture_align;
} CUdevprop;

enum { CU_MEMORYTYPE_HOST = 1, CU_MEMORYTYPE_DEVICE = 2, CU_MEMORYTYPE_ARRAY = 3, CU_MEMORYTYPE_UNIFIED = 4 };
enum { CU_ATTACH_GLOBAL = 1, CU_ATTACH_HOST = 2, CU_ATTACH_SINGLE = 4 };

enum { CU_POINTER_CONTEXT = 1, CU_POINTER_MEMORY_TYPE, CU_POINTER_DEVICE_POINTER, CU_POINTER_HOST_POINTER,
       CU_POINTER_P2P_TOKENS, CU_POINTER_SYNC_MEMOPS, CU_POINTER_BUFFER_ID, CU_POINTER_IS_MANAGED,
       CU_POINTER_DEVICE_ORDINAL, CU_POINTER_IPC_CAPABLE, CU_POINTER_RANGE_START, CU_POINTER_RANGE_SIZE,
       CU_POINTER_MAPPED, CU_POINTER_HANDLE_TYPES, CU_POINTER_RDMA_CAPABLE, CU_POINTER_ACCESS_FLAGS,
       CU_POINTER_MEMPOOL, CU_POINTER_MAPPING_SIZE, CU_POINTER_MAPPING_BASE, CU_POINTER_BLOCK_ID };

enum { CU_POOL_REUSE_EVENT = 1, CU_POOL_REUSE_OPPORTUNISTIC, CU_POOL_REUSE_INTERNAL, CU_POOL_RELEASE_THRESHOLD,
       CU_POOL_RESERVED_CURRENT, CU_POOL_RESERVED_HIGH, CU_POOL_USED_CURRENT, CU_POOL_USED_HIGH };

#define CUAPI __attribute__((visibility("default")))

#endif /* FAKE_CUDA_ABI_H */

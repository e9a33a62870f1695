/*
 * cuda_types.h: the facts of NVIDIA's driver ABI that the CUDA shim relies on, as cuda.h of CUDA 13 gives them.
 *
 * Only leading parts of structs are declared, with names of our own; the shim reads them and never makes one.
 */
#ifndef FRACGPU_INTERCEPTOR_CUDA_TYPES_H
#define FRACGPU_INTERCEPTOR_CUDA_TYPES_H

#include <stddef.h>
#include <stdint.h>

typedef int CUresult;
typedef int CUdevice;
typedef unsigned long long CUdeviceptr;
typedef unsigned int CUdeviceptr_v1;
typedef unsigned long long CUmemGenericAllocationHandle;
typedef struct CUctx_st *CUcontext;
typedef struct CUstream_st *CUstream;
typedef struct CUevent_st *CUevent;
typedef struct CUmemPoolHandle_st *CUmemoryPool;

enum {
    CUDA_SUCCESS = 0,
    CUDA_ERROR_OUT_OF_MEMORY = 2,
    CUDA_ERROR_NOT_FOUND = 500,
    CUDA_ERROR_SYSTEM_NOT_READY = 802
};

enum {
    CU_MEMPOOL_ATTR_RESERVED_MEM_CURRENT = 5,
    CU_MEMPOOL_ATTR_USED_MEM_CURRENT = 7,
    CU_MEMPOOL_ATTR_LOCATION_TYPE = 12
};

enum {
    CU_MEM_LOCATION_TYPE_DEVICE = 1,
    CU_MEM_LOCATION_TYPE_HOST = 2,
    CU_MEM_LOCATION_TYPE_HOST_NUMA = 3,
    CU_MEM_LOCATION_TYPE_HOST_NUMA_CURRENT = 4,
    CU_MEM_LOCATION_TYPE_DEVICE_LOCALITY_DOMAIN = 6   /* the id's lowest byte is the device */
};

enum {
    CU_STREAM_CAPTURE_STATUS_NONE = 0,
    CU_STREAM_CAPTURE_MODE_RELAXED = 2
};

enum {
    CU_GET_PROC_ADDRESS_LEGACY_STREAM = 1,
    CU_GET_PROC_ADDRESS_PER_THREAD_DEFAULT_STREAM = 2
};

struct fg_uuid {
    uint8_t bytes[16];
};

struct fg_location {
    int type;
    int id;
};

/* The beginning of CUmemAllocationProp. */
struct fg_allocation_prop {
    int type;
    int handle_types;
    struct fg_location location;
};

/* The beginning of CUmemPoolProps. */
struct fg_pool_props {
    int allocation_type;
    int handle_types;
    struct fg_location location;
};

#endif

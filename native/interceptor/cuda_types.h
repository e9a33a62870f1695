/*
 * cuda_types.h: the facts of NVIDIA's driver ABI that the CUDA shim relies on, as cuda.h of CUDA 13 gives them.
 *
 * Mostly only leading parts of structs are declared, with names of our own; the shim reads them and makes none.
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
typedef struct CUgreenCtx_st *CUgreenCtx;
typedef struct CUmod_st *CUmodule;
typedef struct CUlib_st *CUlibrary;
typedef struct CUstream_st *CUstream;
typedef struct CUevent_st *CUevent;
typedef struct CUmemPoolHandle_st *CUmemoryPool;
typedef struct CUarray_st *CUarray;
typedef struct CUmipmappedArray_st *CUmipmappedArray;
typedef struct CUgraph_st *CUgraph;
typedef struct CUgraphNode_st *CUgraphNode;
typedef struct CUgraphExec_st *CUgraphExec;

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
    CU_GRAPH_NODE_TYPE_GRAPH = 4,
    CU_GRAPH_NODE_TYPE_MEM_ALLOC = 10,
    CU_GRAPH_NODE_TYPE_MEM_FREE = 11
};

enum {
    CU_GRAPH_MEM_ATTR_RESERVED_MEM_CURRENT = 2
};

enum {
    CUDA_GRAPH_INSTANTIATE_FLAG_AUTO_FREE_ON_LAUNCH = 1,
    CUDA_GRAPH_INSTANTIATE_FLAG_UPLOAD = 2
};

enum {
    CU_STREAM_CAPTURE_STATUS_NONE = 0,
    CU_STREAM_CAPTURE_MODE_RELAXED = 2
};

enum {
    CU_GET_PROC_ADDRESS_LEGACY_STREAM = 1,
    CU_GET_PROC_ADDRESS_PER_THREAD_DEFAULT_STREAM = 2
};

enum {
    CU_MEM_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR = 1
};

/* CUipcMemHandle, which is passed by value, and CUmemPoolPtrExportData. */
struct fg_ipc_handle {
    unsigned char bytes[64];
};

struct fg_uuid {
    uint8_t bytes[16];
};

enum {
    CUDA_ARRAY3D_LAYERED = 0x01,
    CUDA_ARRAY3D_CUBEMAP = 0x04,
    CUDA_ARRAY3D_SPARSE = 0x40,
    CUDA_ARRAY3D_DEFERRED_MAPPING = 0x80
};

enum { CU_RESOURCE_TYPE_MIPMAPPED_ARRAY = 1 };
enum { CU_ARRAY_SPARSE_SUBRESOURCE_TYPE_SPARSE_LEVEL = 0 };
enum { CU_MEM_OPERATION_TYPE_MAP = 1 };

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

/* CUDA_ARRAY3D_DESCRIPTOR and CUDA_ARRAY_DESCRIPTOR, and both of the ABI before CUDA 3.2. */
struct fg_array_shape {
    size_t width, height, depth;
    int format;
    unsigned int channels;
    unsigned int flags;
};

struct fg_array_shape_2d {
    size_t width, height;
    int format;
    unsigned int channels;
};

struct fg_array_shape_v1 {
    unsigned int width, height, depth;
    int format;
    unsigned int channels;
    unsigned int flags;
};

struct fg_array_shape_2d_v1 {
    unsigned int width, height;
    int format;
    unsigned int channels;
};

/* CUDA_ARRAY_MEMORY_REQUIREMENTS and CUDA_ARRAY_SPARSE_PROPERTIES: the driver writes all of them. */
struct fg_array_requirements {
    size_t bytes, alignment;
    unsigned int reserved[4];
};

struct fg_sparse_properties {
    unsigned int width, height, depth; /* of a tile */
    unsigned int tail_first_level;
    unsigned long long tail_bytes;
    unsigned int flags;
    unsigned int reserved[4];
};

struct fg_array_part {
    unsigned int level, layer;
    unsigned int x, y, z;
    unsigned int width, height, depth;
};

/* CUarrayMapInfo */
struct fg_array_map {
    int resource_type;
    union {
        CUarray array;
        CUmipmappedArray mipmap;
    } resource;
    int subresource_type;
    union {
        struct fg_array_part part;
        struct {
            unsigned int layer;
            unsigned long long offset, bytes;
        } tail;
    } subresource;
    int operation;
    int handle_type;
    CUmemGenericAllocationHandle handle;
    unsigned long long offset;
    unsigned int device_mask;
    unsigned int flags;
    unsigned int reserved[2];
};
_Static_assert(sizeof(struct fg_array_map) == 96, "as in cuda.h");

/* CUDA_MEM_ALLOC_NODE_PARAMS, which the driver fills: whole. */
struct fg_graph_alloc {
    int allocation_type;
    int handle_types;
    struct fg_location location;
    unsigned char more_of_the_pool[72];
    const void *accesses;
    size_t access_count;
    size_t bytes;
    CUdeviceptr address;
};
_Static_assert(sizeof(struct fg_graph_alloc) == 120, "CUDA_MEM_ALLOC_NODE_PARAMS");

/* The beginning of CUDA_GRAPH_INSTANTIATE_PARAMS. */
struct fg_graph_instantiate_params {
    uint64_t flags;
    CUstream upload_stream;
};

#endif

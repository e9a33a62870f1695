/*
 * driver.h: what the parts of the fake libcuda share.
 *
 * One lock guards the whole driver of a process. Exported functions take it through DRIVER_CALL and hand over to a
 * static function that runs under it; those return a CUresult and leave their out-parameters alone on failure.
 */
#ifndef FAKE_DRIVER_H
#define FAKE_DRIVER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "cuda_abi.h"
#include "machine.h"
#include "version.h"

#define MIB ((size_t)1 << 20)
#define PHYSICAL_GRANULE (2 * MIB)        /* the driver hands out device memory in pages of this size */
#define ALIGNMENT ((size_t)512)           /* of every device pointer */
#define ROUND_UP(n, unit) (((n) + (unit) - 1) / (unit) * (unit))

#define CU_ACCESS_READ_WRITE 3

#define TRY(expression) do { CUresult tried_ = (expression); if (tried_ != CUDA_SUCCESS) return tried_; } while (0)
#define REQUIRE(condition, error) do { if (!(condition)) return (error); } while (0)
#define NOT_NULL(pointer) REQUIRE((pointer) != NULL, CUDA_ERROR_INVALID_VALUE)

/* First in every exported function, directly or through DRIVER_CALL: what fault.c is told to do with this call. */
#define FAULT_POINT() TRY(fault_at(__func__))

#define DRIVER_CALL(expression) DRIVER_CALL_AS(__func__, expression)
#define DRIVER_CALL_AS(symbol, expression) do { \
        TRY(fault_at(symbol)); \
        CUresult called_ = driver_lock(symbol); \
        if (called_ == CUDA_SUCCESS) { called_ = (expression); driver_unlock(); } \
        return called_; \
    } while (0)

/* A stream-ordered function and its per-thread-default-stream twin: two symbols, two addresses, one behaviour, since
 * work completes at once whatever the stream; only what a NULL stream means differs, and a capture tells. */
#define STREAM_API(name, twin, parameters, arguments) \
    static CUresult name##_locked parameters; \
    CUAPI CUresult name parameters { DRIVER_CALL(name##_locked arguments); } \
    CUAPI CUresult name##twin parameters { DRIVER_CALL((driver_per_thread = true, name##_locked arguments)); } \
    static CUresult name##_locked parameters

/* ---- faults: fault.c ---- */
CUresult fault_at(const char *function);

/* ---- process: driver.c ---- */
extern struct machine fake_machine;
/* Locks for a call of `symbol`; CUDA_ERROR_NOT_INITIALIZED (and no lock) before cuInit and in a child forked after it, and
 * an error of its own for what a stream capture forbids. */
CUresult driver_lock(const char *symbol);
void driver_unlock(void);
/* In the middle of a call that has let go of the lock. */
void driver_relock(void);
/* The call that has the lock is a twin for the per-thread default stream. */
extern bool driver_per_thread;

/* ---- devices: device.c ---- */
struct fake_device {
    int gpu;                              /* index in the machine */
    const struct fake_gpu *hw;
    CUcontext primary;
    unsigned primary_flags;
    unsigned primary_references;
    CUmemoryPool default_pool;
    CUmemoryPool current_pool;
};
/* Fill the table with the visible GPUs that CUDA_VISIBLE_DEVICES lists, in its order; returns the count. */
int devices_enumerate(void);
int device_count(void);
/* NULL for an ordinal that does not exist. */
struct fake_device *device_at(int ordinal);
CUresult device_charge(int ordinal, size_t bytes);
void device_discharge(int ordinal, size_t bytes);
CUresult device_memory(int ordinal, uint64_t *free_bytes, uint64_t *total_bytes);

/* ---- contexts: context.c ---- */
struct fake_context {
    CUcontext next;                       /* contexts are never freed: a stale handle must be recognised */
    int device;
    bool primary;
    bool green;                           /* part of the primary context, see green.c */
    bool alive;
    unsigned attachments;
    unsigned flags;
    uint64_t id;
    size_t limits[7];                     /* CUlimit, where set */
    bool limit_set[7];
    size_t heap_bytes;                    /* printf buffer and malloc heap, where larger than by default */
    int cache_config;
    struct segment *slabs;                /* small allocations */
};
bool context_known(CUcontext context);
/* The calling thread's context, CUDA_ERROR_INVALID_CONTEXT without one. */
CUresult context_current(CUcontext *context);
CUresult context_current_device(int *ordinal);
/* A context that is not alive yet and owns nothing. */
CUresult context_allocate(CUcontext *out, int device, bool primary);
CUresult context_retain_primary(CUcontext *out, CUdevice ordinal);
CUresult context_release_primary(CUdevice ordinal);

/* ---- backing.c: addresses that programs hold and the bytes behind them ---- */
/* An address range nothing can be read from, as device memory is for a CPU. Alignment: a power of two. */
CUresult address_reserve(size_t size, size_t alignment, uint64_t hint, CUdeviceptr *address);
/* The same below 4 GiB, for the 32-bit ABI. */
CUresult address_reserve_low(size_t size, CUdeviceptr *address);
void address_release(CUdeviceptr address, size_t size);
/* Zeroed memory that costs nothing until touched; NULL when there is none. */
uint8_t *backing_map(size_t size);
void backing_unmap(uint8_t *bytes, size_t size);

/* ---- ranges.c: what each address is ---- */
enum range_kind { RANGE_DEVICE, RANGE_POOL, RANGE_MANAGED, RANGE_HOST, RANGE_REGISTERED, RANGE_MAPPING,
                  RANGE_IMPORTED /* another process's allocation */, RANGE_GRAPH };
struct range {
    CUdeviceptr start;
    size_t size;                          /* as asked for: what programs may touch */
    enum range_kind kind;
    int device;                           /* -1: host memory */
    CUcontext context;                    /* NULL where no context owns it */
    uint8_t *bytes;
    uint64_t id;
    size_t charged;                       /* held of the device by this range alone */
    size_t reserved;                      /* of the address range, when the range owns one */
    struct segment *segment;              /* the range lies in this slab or piece of a pool */
    CUmemoryPool pool;
    struct graph_memory *graph_memory;    /* RANGE_GRAPH */
    struct physical *physical;
    struct share *share;                  /* other processes may hold it */
    int opened;                           /* how often, of what is imported */
    size_t offset;                        /* in physical */
    int access;                           /* CUmemAccess_flags of a mapping */
    unsigned flags;
};
/* The range that holds the address, or NULL. Invalidated by the next insertion or removal. */
struct range *range_at(CUdeviceptr address);
CUresult range_insert(const struct range *range);
void range_remove(CUdeviceptr start);
int range_count(void);
struct range *range_by_index(int index);
/* Is any byte of [start, start + size) taken? */
bool range_overlaps(CUdeviceptr start, size_t size);

/* ---- segments.c: physical pieces of a device that hold several allocations ---- */
struct segment {
    struct segment *next;
    CUdeviceptr start;
    uint8_t *bytes;
    size_t size;
    size_t used;
    int device;
    struct span { size_t offset, size; } *spans;   /* taken, sorted */
    size_t span_count, span_capacity;
    struct share *share;                  /* other processes may hold it */
};
CUresult segment_create(int device, size_t size, struct segment **segment);
void segment_destroy(struct segment *segment);
/* First fit; false when there is no gap of that size. Sizes are rounded up to ALIGNMENT. */
bool segment_take(struct segment *segment, size_t size, size_t *offset);
void segment_give(struct segment *segment, size_t offset);

/* ---- memory.c, pool.c, vmm.c ---- */
/* Device memory for range->size bytes, in range->context: large requests in whole granules, small ones share one.
 * memory_release gives it back. */
CUresult memory_take(struct range *range);
CUresult memory_release(struct range *range);
void memory_release_context(CUcontext context);
/* Managed memory moves to a device when that device touches it, and stays where it is when there is no room. */
void memory_migrate(struct range *range, int device);
void pool_free(struct range *range);
/* What a synchronisation does: pools give back what lies above their release thresholds. */
void pools_synchronize(void);
void pools_reset(int device);
bool pool_handle_known(CUmemoryPool pool);

/* ---- ipc.c ---- */
/* Give back what is imported, and forget the range. */
void ipc_release(struct range *range);
/* An address for another process's memory of which `offset` is the beginning; `share` becomes the range's. */
CUresult ipc_map(struct share *share, size_t offset, size_t size, CUcontext context, CUmemoryPool pool,
                 CUdeviceptr *address);

/* ---- array.c ---- */
void arrays_release_context(CUcontext context);

/* ---- module.c ---- */
void modules_release_context(CUcontext context);

/* ---- stream.c ---- */
/* The device that a stream works on; CUDA_ERROR_INVALID_HANDLE for what is no stream. */
CUresult stream_device(CUstream stream, int *ordinal);

#endif /* FAKE_DRIVER_H */

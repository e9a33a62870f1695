/*
 * machine_layout.h: the file that stands for the hardware of a modelled machine.
 *
 * One description for C and Python: the fake driver includes this header, fracgpu.native.fake_gpu feeds the
 * part between the LAYOUT markers to cffi. Inside them only plain enums, fixed-width types and structs.
 *
 * The file is FAKE_HEADER_BYTES of header, FAKE_GPU_COUNT_MAX GPU records, FAKE_SLOT_COUNT process slots,
 * FAKE_SHARED_COUNT records of memory that more than one process may hold.
 * There is no shared sum anywhere: what a GPU holds is the sum over the slots of living processes, so a
 * process that dies at any instruction takes its memory with it. A slot's owner keeps an OFD write lock on
 * the first byte of its slot for as long as its mapping lives; the kernel drops it at exit, exec or SIGKILL.
 * Whoever changes a slot or the high-water marks holds the OFD write lock on byte 0 of the file.
 *
 * Memory that can be in several processes is in no slot but in a record of its own. Whatever keeps it (a process, a file
 * descriptor on its way to one) is an open file description with an OFD read lock on the record's first byte; the record
 * counts for as long as the kernel knows of any such lock.
 */
#ifndef FAKE_MACHINE_LAYOUT_H
#define FAKE_MACHINE_LAYOUT_H

#include <stddef.h>
#include <stdint.h>

/* LAYOUT-BEGIN */

enum fake_layout {
    FAKE_LAYOUT_VERSION = 2,
    FAKE_HEADER_BYTES = 4096,
    FAKE_GPU_COUNT_MAX = 16,
    FAKE_GPU_BYTES = 256,
    FAKE_SLOT_COUNT = 1024,
    FAKE_SLOT_BYTES = 256,
    FAKE_SHARED_COUNT = 512,
    FAKE_SHARED_BYTES = 256,
    FAKE_NAME_BYTES = 96
};

enum fake_slot_state {
    FAKE_SLOT_FREE = 0,
    FAKE_SLOT_LIVE = 1                    /* counts only while its lock is held */
};

struct fake_header {
    uint64_t magic;                       /* "FAKEGPU1" in memory order, written last */
    uint32_t layout_version;
    uint32_t gpu_count;
    uint64_t file_bytes;
    uint64_t shared_serial;               /* of the newest shared record */
    uint64_t shared_high_water;           /* records [0, high_water) have ever been used */
};

/* Fixed when the machine is made, up to what compute programs, NVML's setters and tests change: peak_used_bytes and
 * everything from lost on. */
struct fake_gpu {
    uint8_t  uuid[16];
    char     name[96];                    /* NUL-terminated */
    uint64_t memory_bytes;                /* what NVML calls total */
    uint64_t reserved_bytes;              /* kept by the driver: in NVML's total, never allocatable */
    uint64_t context_bytes;               /* what one process's context on this GPU costs */
    uint64_t peak_used_bytes;             /* highest sum of the slots since it was last reset */
    uint32_t minor;                       /* /dev/nvidia<minor> */
    uint32_t pci_domain;
    uint32_t pci_bus;
    uint32_t pci_device;
    uint32_t compute_major;
    uint32_t compute_minor;
    uint32_t multiprocessors;
    uint32_t brand;                       /* nvmlBrandType_t */
    uint32_t architecture;                /* nvmlDeviceArchitecture_t */
    uint32_t lost;                        /* 1: fell off the bus, NVML knows it and can not talk to it */
    uint32_t persistence_mode;            /* what NVML's setters change */
    uint32_t compute_mode;
    uint32_t accounting_mode;
    uint32_t encoder_percent;             /* how busy the video engines are, whoever uses them */
    uint32_t decoder_percent;
    uint32_t reserved[13];
};

struct fake_slot {
    uint32_t state;                       /* enum fake_slot_state */
    int32_t  pid;                         /* in the owner's pid namespace */
    uint64_t start_time_ticks;            /* /proc/self/stat field 22 */
    uint64_t pid_namespace_inode;
    uint32_t context_mask;                /* bit g: a context exists on GPU g */
    uint32_t padding;
    uint64_t used_bytes[16];              /* per GPU, contexts included */
    uint32_t graphics_mask;               /* bit g: NVML lists it among the graphics processes of GPU g */
    uint32_t mps_mask;                    /* the same, among the clients of an MPS server */
    uint8_t  sm_percent[16];              /* per GPU, how busy this process keeps it */
    uint8_t  memory_percent[16];
    uint64_t reserved[7];
};

/* Physical memory that several processes may hold. */
struct fake_shared {
    uint32_t state;                       /* enum fake_slot_state; counts only while a lock on it is held */
    uint32_t gpu;
    uint64_t bytes;
    uint64_t serial;                      /* tells one use of this record from the next */
    uint32_t owner;                       /* slot of the process that made it */
    uint32_t padding;
    uint8_t  holders[128];                /* bit s: the process of slot s holds it */
    uint64_t reserved[12];
};

/* LAYOUT-END */

/* "FAKEGPU1" read as a little-endian 64-bit word. */
#define FAKE_MAGIC UINT64_C(0x31555047454b4146)
#define FAKE_GPUS_OFFSET ((size_t)FAKE_HEADER_BYTES)
#define FAKE_SLOTS_OFFSET (FAKE_GPUS_OFFSET + (size_t)FAKE_GPU_COUNT_MAX * FAKE_GPU_BYTES)
#define FAKE_SHARED_OFFSET (FAKE_SLOTS_OFFSET + (size_t)FAKE_SLOT_COUNT * FAKE_SLOT_BYTES)
#define FAKE_FILE_BYTES (FAKE_SHARED_OFFSET + (size_t)FAKE_SHARED_COUNT * FAKE_SHARED_BYTES)

_Static_assert(sizeof(struct fake_gpu) == FAKE_GPU_BYTES, "GPU record layout");
_Static_assert(sizeof(struct fake_slot) == FAKE_SLOT_BYTES, "slot layout");
_Static_assert(sizeof(struct fake_shared) == FAKE_SHARED_BYTES, "shared record layout");
_Static_assert(FAKE_SLOT_COUNT == 8 * 128, "a bit per slot in fake_shared.holders");
_Static_assert(offsetof(struct fake_gpu, memory_bytes) == 112, "GPU record layout");
_Static_assert(offsetof(struct fake_slot, used_bytes) == 32, "slot layout");

#endif /* FAKE_MACHINE_LAYOUT_H */

/*
 * fracgpu_abi.h: the two files that host and container share.
 *
 * One source for C and Python. The interceptor includes this header; fracgpu.native.abi feeds the
 * part between the ABI-BEGIN and ABI-END markers to cffi, so that there is no second description that
 * could drift. Inside the markers only what cffi's cdef parser understands is allowed: plain enums with
 * integer values, fixed-width types, structs. The static assertions below the markers pin every size and
 * offset; a test compares them once more with what cffi computed.
 *
 * config  one file per allocation, written only by the host, mounted read-only into the container: a page with the
 *         limits, and behind it what the host observes (feedback). Files of older hosts have the page only.
 * state   one file per allocation, created and sized by the host, written by the processes of the
 *         container. Everything in it is hostile input to the host, which reads it with pread.
 *
 * All values are little-endian, all counters aligned 64-bit words. The layout only ever grows at the end:
 * readers take header_bytes, slot_stride_bytes and slot_count from the file. The magic is stored last,
 * with release order, by whoever creates the file.
 */
#ifndef FRACGPU_ABI_H
#define FRACGPU_ABI_H

#include <stddef.h>
#include <stdint.h>

/* ABI-BEGIN */

enum fracgpu_abi {
    FRACGPU_ABI_VERSION = 1,
    FRACGPU_CONFIG_FILE_BYTES = 4096,     /* the page is padded with zeros; every config file has this much */
    FRACGPU_FEEDBACK_OFFSET_BYTES = 4096, /* where this version's hosts put the feedback section */
    FRACGPU_FEEDBACK_HEADER_BYTES = 4096, /* the first slot record follows */
    FRACGPU_FEEDBACK_STRIDE_BYTES = 32,
    FRACGPU_STATE_HEADER_BYTES = 4096,
    FRACGPU_SLOT_COUNT = 1024,            /* processes of one allocation that can hold memory at once */
    FRACGPU_SLOT_STRIDE_BYTES = 128,
    FRACGPU_ALLOCATION_ID_BYTES = 256     /* NUL-terminated */
};

/* struct fracgpu_config.flags */
enum fracgpu_config_flags {
    FRACGPU_FLAG_SUSPEND = 1,             /* hold new work until cleared */
    FRACGPU_FLAG_OBSERVE = 2,             /* account, never refuse (admin access, enforcement None, whole GPU) */
    FRACGPU_FLAG_IGNORE_OVERHEAD = 4      /* contexts, modules and the host's residue do not count */
};

/* struct fracgpu_config.utilization_view; any other value is taken for the first. */
enum fracgpu_utilization_view {
    FRACGPU_UTILIZATION_SLICE = 0,        /* programs see what their own processes use in percent of their share */
    FRACGPU_UTILIZATION_DEVICE = 1        /* the same in percent of the device */
};

enum fracgpu_slot_state {
    FRACGPU_SLOT_FREE = 0,
    FRACGPU_SLOT_CLAIMING = 1,            /* lock held, fields being reset */
    FRACGPU_SLOT_LIVE = 2,
    FRACGPU_SLOT_DEAD = 3                 /* owner gone, counters no longer count */
};

struct fracgpu_config {
    uint64_t magic;                       /* "FRACCFG1" in memory order */
    uint32_t abi_version;
    uint32_t header_bytes;                /* sizeof(struct fracgpu_config) of the writer */
    uint64_t generation;                  /* odd while the host writes; +2 per change */
    uint8_t  device_uuid[16];             /* the 16 bytes of the GPU's UUID, in the order they print */
    uint64_t memory_limit_bytes;          /* UINT64_MAX: no limit */
    uint32_t cores_percent;               /* 1..100; 0 or 100: no cap */
    uint32_t flags;                       /* enum fracgpu_config_flags */
    uint32_t feedback_offset_bytes;       /* in this file; 0: there is no feedback section */
    uint32_t feedback_slot_count;
    uint32_t utilization_view;            /* enum fracgpu_utilization_view */
    uint32_t reserved_word;               /* zero */
    uint64_t reserved[6];                 /* zero */
    char     allocation_id[256];
};

/* What the host observes, at feedback_offset_bytes of the config file: this header, padded to
 * FRACGPU_FEEDBACK_HEADER_BYTES, then one record per slot of the state file, at the same index. Its sequence has nothing
 * to do with the generation of the config page. Shares are basis points (1/100 percent) of the whole device. */
struct fracgpu_feedback_header {
    uint64_t sequence;                    /* odd while the host writes */
    uint64_t published_ns;                /* CLOCK_MONOTONIC; 0: never */
    uint32_t slot_stride_bytes;
    uint32_t slot_count;
    uint32_t own_utilization_bp;          /* SM time of this allocation's processes */
    uint32_t own_memory_utilization_bp;
    uint32_t device_utilization_bp;       /* SM time of all processes */
    uint32_t device_memory_utilization_bp;
    uint32_t active_peers;                /* other processes with work on the device */
    uint32_t flags;                       /* enum fracgpu_feedback_flags */
    uint64_t reserved[2];
};

struct fracgpu_feedback_slot {
    uint64_t slot_generation;             /* which owner of the slot this is about; 0: nobody */
    uint64_t nvml_used_bytes;             /* what the driver says that the process holds on the device */
    uint32_t sm_bp;
    uint32_t memory_bp;
    int32_t  host_pid;                    /* in the host's pid namespace */
    uint32_t reserved_word;
};

/* struct fracgpu_feedback_header.flags */
enum fracgpu_feedback_flags {
    FRACGPU_FEEDBACK_UTILIZATION = 1      /* all shares of time were measured; else they mean nothing */
};

/* The state file: this header, padded to FRACGPU_STATE_HEADER_BYTES, then slot_count slots. */
struct fracgpu_state_header {
    uint64_t magic;                       /* "FRACSTA1" in memory order */
    uint32_t abi_version;
    uint32_t header_bytes;                /* FRACGPU_STATE_HEADER_BYTES: where the first slot starts */
    uint32_t slot_count;
    uint32_t slot_stride_bytes;
    uint64_t slot_high_water;             /* slots [0, high_water) have ever been used */
    uint8_t  device_uuid[16];
    uint64_t reserved[10];
    /* The allocation's shared line, on a cache line of its own; values only grow. */
    uint64_t peak_bytes;                  /* highest sum that a successful reservation saw */
    uint64_t refusals;                    /* allocations refused because of the limit */
    uint64_t last_refusal_ns;             /* CLOCK_REALTIME */
    uint64_t last_refused_bytes;
    uint64_t reaped_slots;                /* slots whose owner died holding them */
    uint64_t shared_reserved[3];
};

/* One process. Only the owner writes its slot, except that anyone may turn a LIVE slot whose lock is free into a
 * DEAD one. The owner holds an OFD write lock on the slot's first byte through its mapping of the file. */
struct fracgpu_slot {
    uint32_t state;                       /* enum fracgpu_slot_state */
    int32_t  pid;                         /* in the owner's pid namespace */
    uint64_t start_time_ticks;            /* /proc/self/stat field 22 */
    uint64_t pid_namespace_inode;
    uint64_t generation;                  /* +1 each time the slot is taken */
    uint64_t committed_bytes;             /* charged: pending + committed of all live slots <= limit */
    uint64_t pending_bytes;               /* announced, driver call not finished */
    uint64_t overhead_bytes;              /* contexts, modules, and what else only the driver sees; counts like committed */
    uint64_t pool_bytes;                  /* part of committed: stream-ordered pools */
    uint64_t managed_bytes;               /* part of committed: managed memory */
    uint64_t host_pinned_bytes;           /* counted, not limited */
    uint64_t reserved[6];
};

/* ABI-END */

/* "FRACCFG1" and "FRACSTA1" read as little-endian 64-bit words. */
#define FRACGPU_CONFIG_MAGIC UINT64_C(0x3147464343415246)
#define FRACGPU_STATE_MAGIC  UINT64_C(0x3141545343415246)
#define FRACGPU_NO_LIMIT     UINT64_MAX

#if defined(__STDC_VERSION__) && __STDC_VERSION__ >= 201112L
_Static_assert(sizeof(struct fracgpu_config) == 376, "config page layout");
_Static_assert(offsetof(struct fracgpu_config, device_uuid) == 24, "config page layout");
_Static_assert(offsetof(struct fracgpu_config, memory_limit_bytes) == 40, "config page layout");
_Static_assert(offsetof(struct fracgpu_config, flags) == 52, "config page layout");
_Static_assert(offsetof(struct fracgpu_config, feedback_offset_bytes) == 56, "config page layout");
_Static_assert(offsetof(struct fracgpu_config, utilization_view) == 64, "config page layout");
_Static_assert(offsetof(struct fracgpu_config, allocation_id) == 120, "config page layout");
_Static_assert(sizeof(struct fracgpu_config) <= FRACGPU_CONFIG_FILE_BYTES, "config page layout");
_Static_assert(sizeof(struct fracgpu_feedback_header) == 64, "feedback layout");
_Static_assert(offsetof(struct fracgpu_feedback_header, own_utilization_bp) == 24, "feedback layout");
_Static_assert(sizeof(struct fracgpu_feedback_slot) == FRACGPU_FEEDBACK_STRIDE_BYTES, "feedback layout");
_Static_assert(offsetof(struct fracgpu_feedback_slot, sm_bp) == 16, "feedback layout");
_Static_assert(sizeof(struct fracgpu_state_header) == 192, "state header layout");
_Static_assert(offsetof(struct fracgpu_state_header, slot_high_water) == 24, "state header layout");
_Static_assert(offsetof(struct fracgpu_state_header, peak_bytes) == 128, "state header layout");
_Static_assert(sizeof(struct fracgpu_slot) == FRACGPU_SLOT_STRIDE_BYTES, "slot layout");
_Static_assert(offsetof(struct fracgpu_slot, committed_bytes) == 32, "slot layout");
_Static_assert(offsetof(struct fracgpu_slot, host_pinned_bytes) == 72, "slot layout");
#endif

#endif /* FRACGPU_ABI_H */

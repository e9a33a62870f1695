/*
 * page.h: the config page of one allocation, mapped read-only.
 */
#ifndef FRACGPU_LIMITER_PAGE_H
#define FRACGPU_LIMITER_PAGE_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#include "../abi/fracgpu_abi.h"
#include "fault.h"

#define FG_PATH_BYTES 512

/* What the host currently allows. `limited` is false for no limit and for observe. `overhead` says whether contexts and
 * what else only the driver sees are charged. */
struct fg_limits {
    uint64_t memory_bytes;
    uint64_t generation;               /* of the page when it said so */
    bool limited;
    bool overhead;
    bool suspended;                    /* new work has to wait; see gate.h */
};

struct fg_page {
    const struct fracgpu_config *config;
    size_t mapped_bytes;               /* 0: not a file */
    /* What the host observes (feedback.h); NULL: the file has no such section. */
    const unsigned char *feedback;
    uint32_t feedback_slots;
    uint32_t feedback_stride;
    /* The last consistent reading: what holds while the host is inside a write. Kept by one thread at a time. */
    uint64_t last_generation;
    uint64_t last_memory_bytes;
    uint32_t last_flags;
    uint32_t keeping;
    /* An odd generation that was waited for in vain; it is not waited for again. */
    uint64_t stuck_generation;
    uint64_t open_generation;          /* gate.h: the page is not suspended as long as it has this one; odd: not known */
    dev_t device;
    ino_t inode;
    char path[FG_PATH_BYTES];          /* where the container finds the page; empty: not a file, or not known */
};

/* Map and check the page that is open at `descriptor`, which may be closed then. On a fault nothing stays mapped. */
enum fg_fault fg_page_map(struct fg_page *page, int descriptor);

/* The same for a page that is not a file: limits of the standalone build. `config` must outlive `page`. */
enum fg_fault fg_page_adopt(struct fg_page *page, const struct fracgpu_config *config);

void fg_page_close(struct fg_page *page);

/* Current limits. Never waits for more than FG_PAGE_RETRIES readings; the writer is trusted to be quick, and if it
 * died inside a write the last consistent reading holds. */
struct fg_limits fg_page_limits(struct fg_page *page);

#define FG_PAGE_RETRIES 1000

#endif

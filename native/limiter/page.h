/*
 * page.h: the config page of one allocation, mapped read-only.
 */
#ifndef FRACGPU_LIMITER_PAGE_H
#define FRACGPU_LIMITER_PAGE_H

#include <stdbool.h>
#include <stdint.h>

#include "../abi/fracgpu_abi.h"
#include "fault.h"

/* What the host currently allows. `limited` is false for no limit and for observe. `overhead` says whether contexts and
 * what else only the driver sees are charged. */
struct fg_limits {
    uint64_t memory_bytes;
    bool limited;
    bool overhead;
};

struct fg_page {
    const struct fracgpu_config *config;
    size_t mapped_bytes;               /* 0: not a file */
    /* What the host observes (feedback.h); NULL: the file has no such section. */
    const unsigned char *feedback;
    uint32_t feedback_slots;
    uint32_t feedback_stride;
    /* The last consistent reading: what holds while the host is inside a write. */
    uint64_t last_generation;
    uint64_t last_memory_bytes;
    uint32_t last_flags;
    /* An odd generation that was waited for in vain; it is not waited for again. */
    uint64_t stuck_generation;
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

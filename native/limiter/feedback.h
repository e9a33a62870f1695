/*
 * feedback.h: what the host observes of an allocation, and a process in a container can not.
 *
 * The host publishes about once per second. A reading that is torn, too old, or about another owner of the slot is no
 * reading: callers go on with what they know themselves, as under a host that publishes nothing.
 */
#ifndef FRACGPU_LIMITER_FEEDBACK_H
#define FRACGPU_LIMITER_FEEDBACK_H

#include <stdbool.h>
#include <stdint.h>

#include "page.h"

/* Older than this is no reading. */
#define FG_FEEDBACK_FRESH_NS UINT64_C(5000000000)

#define FG_FEEDBACK_RETRIES 100

/* Shares in basis points of the device, at most 10000. */
struct fg_device_feedback {
    uint64_t published_ns;             /* CLOCK_MONOTONIC */
    uint32_t own_utilization_bp;
    uint32_t own_memory_utilization_bp;
    uint32_t device_utilization_bp;
    uint32_t device_memory_utilization_bp;
    uint32_t active_peers;
    bool utilization_measured;         /* or the shares mean nothing */
};

struct fg_slot_feedback {
    uint64_t published_ns;             /* CLOCK_MONOTONIC */
    uint64_t nvml_used_bytes;
    uint32_t sm_bp;
    uint32_t memory_bp;
    int32_t host_pid;
};

/* False when there is none. Waits for nobody: a host that died in its write leaves no reading. */
bool fg_feedback_device(const struct fg_page *page, struct fg_device_feedback *feedback);

/* The same about the process that took slot `index` of the state file as its `generation`th owner. */
bool fg_feedback_slot(const struct fg_page *page, uint32_t index, uint64_t generation,
                      struct fg_slot_feedback *feedback);

#endif

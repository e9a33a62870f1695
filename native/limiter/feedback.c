/*
 * feedback.c: see feedback.h.
 *
 * A sequence lock with one writer, which a reader tries a few times and then does without. Everything is read word by
 * word into a copy, and only a copy that no write overlapped is looked at.
 */
#include "feedback.h"

#include <time.h>

#include "amount.h"
#include "pause.h"

/* Clocks of two processors, or a coarse one, may differ by a little; more is another machine's time. */
#define CLOCK_SLACK_NS UINT64_C(1000000000)

#define FULL_BP 10000u

#define LOAD(field) __atomic_load_n(&(field), __ATOMIC_RELAXED)

static const struct fracgpu_feedback_header *header_of(const struct fg_page *page)
{
    return (const void *)page->feedback;
}

static bool is_fresh(uint64_t published_ns)
{
    uint64_t now = fg_clock_ns(CLOCK_MONOTONIC);
    return published_ns != 0 && published_ns <= now + CLOCK_SLACK_NS &&
           fg_subtract(now, published_ns) <= FG_FEEDBACK_FRESH_NS;
}

/* Begin a reading: the sequence, or an odd number for "the host is writing". */
static uint64_t begin(const struct fracgpu_feedback_header *header)
{
    return __atomic_load_n(&header->sequence, __ATOMIC_ACQUIRE);
}

static bool unchanged(const struct fracgpu_feedback_header *header, uint64_t sequence)
{
    __atomic_thread_fence(__ATOMIC_ACQUIRE);
    return sequence % 2 == 0 && LOAD(header->sequence) == sequence;
}

static uint32_t share(uint32_t basis_points)
{
    return basis_points < FULL_BP ? basis_points : FULL_BP;
}

bool fg_feedback_device(const struct fg_page *page, struct fg_device_feedback *feedback)
{
    const struct fracgpu_feedback_header *header = header_of(page);
    if (header == NULL)
        return false;
    for (int attempt = 0; attempt < FG_FEEDBACK_RETRIES; attempt++) {
        uint64_t sequence = begin(header);
        struct fg_device_feedback seen = {
            .published_ns = LOAD(header->published_ns),
            .own_utilization_bp = share(LOAD(header->own_utilization_bp)),
            .own_memory_utilization_bp = share(LOAD(header->own_memory_utilization_bp)),
            .device_utilization_bp = share(LOAD(header->device_utilization_bp)),
            .device_memory_utilization_bp = share(LOAD(header->device_memory_utilization_bp)),
            .active_peers = LOAD(header->active_peers),
            .utilization_measured = (LOAD(header->flags) & FRACGPU_FEEDBACK_UTILIZATION) != 0,
        };
        if (unchanged(header, sequence)) {
            *feedback = seen;
            return is_fresh(seen.published_ns);
        }
        fg_pause();
    }
    return false;
}

bool fg_feedback_slot(const struct fg_page *page, uint32_t index, uint64_t generation,
                      struct fg_slot_feedback *feedback)
{
    const struct fracgpu_feedback_header *header = header_of(page);
    if (header == NULL || index >= page->feedback_slots || generation == 0)
        return false;
    size_t offset = FRACGPU_FEEDBACK_HEADER_BYTES + (size_t)index * page->feedback_stride;
    const struct fracgpu_feedback_slot *slot = (const void *)(page->feedback + offset);
    for (int attempt = 0; attempt < FG_FEEDBACK_RETRIES; attempt++) {
        uint64_t sequence = begin(header);
        uint64_t owner = LOAD(slot->slot_generation);
        struct fg_slot_feedback seen = {
            .published_ns = LOAD(header->published_ns),
            .nvml_used_bytes = fg_amount(LOAD(slot->nvml_used_bytes)),
            .sm_bp = share(LOAD(slot->sm_bp)),
            .memory_bp = share(LOAD(slot->memory_bp)),
            .host_pid = LOAD(slot->host_pid),
        };
        if (unchanged(header, sequence)) {
            *feedback = seen;
            return owner == generation && is_fresh(seen.published_ns);
        }
        fg_pause();
    }
    return false;
}

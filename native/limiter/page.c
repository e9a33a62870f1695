/*
 * page.c: reading a page that the host may change at any moment.
 *
 * The generation works as a sequence lock with one trusted writer: odd while it writes. All waits are bounded, so
 * that a host that died in the middle of a write can stop nobody.
 */
#include "page.h"

#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "amount.h"
#include "pause.h"

/* A section further away than this is a damaged page. */
#define FEEDBACK_OFFSET_MAX (UINT64_C(1) << 20)

/* No page at rest has an odd generation. */
#define GENERATION_NEVER UINT64_C(1)

/* How long a process that starts in the middle of a change waits for its end: some twenty milliseconds. */
enum { FIRST_WAITS = 40, FIRST_WAIT_US = 500 };

/* What a reading found. */
struct reading {
    uint64_t generation;
    uint64_t memory_bytes;
    uint32_t flags;
};

/* Let `reading` be what holds while the host writes. A thread that finds another one here leaves it to that one, or to
 * its own next reading: mixed, the two would be a limit that never was. */
static void keep(struct fg_page *page, const struct reading *reading)
{
    if (__atomic_load_n(&page->last_generation, __ATOMIC_RELAXED) == reading->generation ||
        __atomic_exchange_n(&page->keeping, 1, __ATOMIC_ACQUIRE) != 0)
        return;
    if (__atomic_load_n(&page->last_generation, __ATOMIC_RELAXED) < reading->generation) {
        __atomic_store_n(&page->last_memory_bytes, reading->memory_bytes, __ATOMIC_RELAXED);
        __atomic_store_n(&page->last_flags, reading->flags, __ATOMIC_RELAXED);
        __atomic_store_n(&page->last_generation, reading->generation, __ATOMIC_RELEASE);
    }
    __atomic_store_n(&page->keeping, 0, __ATOMIC_RELEASE);
}

static bool read_consistently(struct fg_page *page, struct reading *reading)
{
    const struct fracgpu_config *config = page->config;
    for (int attempt = 0; attempt < FG_PAGE_RETRIES; attempt++) {
        uint64_t before = __atomic_load_n(&config->generation, __ATOMIC_ACQUIRE);
        if (before % 2 == 0) {
            reading->generation = before;
            reading->memory_bytes = __atomic_load_n(&config->memory_limit_bytes, __ATOMIC_RELAXED);
            reading->flags = __atomic_load_n(&config->flags, __ATOMIC_RELAXED);
            __atomic_thread_fence(__ATOMIC_ACQUIRE);
            if (__atomic_load_n(&config->generation, __ATOMIC_RELAXED) == before) {
                keep(page, reading);
                return true;
            }
        } else if (before == __atomic_load_n(&page->stuck_generation, __ATOMIC_RELAXED)) {
            return false;
        }
        fg_pause();
    }
    uint64_t generation = __atomic_load_n(&config->generation, __ATOMIC_RELAXED);
    if (generation % 2 == 1)
        __atomic_store_n(&page->stuck_generation, generation, __ATOMIC_RELAXED);
    return false;
}

/* The first reading has nothing to fall back to, and a host that lost its CPU in the middle of a change comes back. */
static bool read_first(struct fg_page *page, struct reading *reading)
{
    for (int wait = 0; wait < FIRST_WAITS; wait++) {
        if (read_consistently(page, reading))
            return true;
        fg_sleep(FIRST_WAIT_US);
    }
    return false;
}

static enum fg_fault check(struct fg_page *page)
{
    const struct fracgpu_config *config = page->config;
    struct reading reading;
    page->open_generation = GENERATION_NEVER;
    if (__atomic_load_n(&config->magic, __ATOMIC_ACQUIRE) != FRACGPU_CONFIG_MAGIC)
        return FG_PAGE_MAGIC;
    if (config->abi_version != FRACGPU_ABI_VERSION)
        return FG_PAGE_VERSION;
    if (config->header_bytes < sizeof(*config) || config->header_bytes > FRACGPU_CONFIG_FILE_BYTES)
        return FG_PAGE_VALUE;
    if (!read_first(page, &reading))
        return FG_PAGE_GENERATION;
    if (reading.memory_bytes == 0 || config->cores_percent > 100 || config->allocation_id[0] == '\0' ||
        memchr(config->allocation_id, '\0', sizeof(config->allocation_id)) == NULL)
        return FG_PAGE_VALUE;
    return FG_OK;
}

enum fg_fault fg_page_adopt(struct fg_page *page, const struct fracgpu_config *config)
{
    memset(page, 0, sizeof(*page));
    page->config = config;
    return check(page);
}

/* Find the feedback section of the file, and how much of the file is to be mapped with it. One that does not fit is left
 * out: it only helps, and no program has to stop for lack of it. */
static void find_feedback(struct fg_page *page, int descriptor, off_t file_bytes, const struct fracgpu_config *config)
{
    struct fracgpu_feedback_header header;
    uint64_t offset = config->feedback_offset_bytes;
    page->mapped_bytes = FRACGPU_CONFIG_FILE_BYTES;
    if (offset < FRACGPU_CONFIG_FILE_BYTES || offset % FRACGPU_CONFIG_FILE_BYTES != 0 || offset > FEEDBACK_OFFSET_MAX ||
        pread(descriptor, &header, sizeof(header), (off_t)offset) != (ssize_t)sizeof(header))
        return;
    uint64_t stride = header.slot_stride_bytes;
    uint64_t slots = fg_min(header.slot_count, config->feedback_slot_count);
    if (stride < FRACGPU_FEEDBACK_STRIDE_BYTES || stride > FRACGPU_CONFIG_FILE_BYTES || stride % 8 != 0 ||
        slots > FG_SLOTS_MAX)
        return;
    uint64_t end = offset + FRACGPU_FEEDBACK_HEADER_BYTES + slots * stride;
    if (end > (uint64_t)file_bytes)
        return;
    page->mapped_bytes = (size_t)end;
    page->feedback_stride = (uint32_t)stride;
    page->feedback_slots = (uint32_t)slots;
}

static const struct fracgpu_config *map_bytes(int descriptor, size_t bytes)
{
    void *mapping = mmap(NULL, bytes, PROT_READ, MAP_SHARED, descriptor, 0);
    if (mapping == MAP_FAILED)
        return NULL;
    /* A forked child starts from nothing and maps its own. */
    madvise(mapping, bytes, MADV_DONTFORK);
    return mapping;
}

enum fg_fault fg_page_map(struct fg_page *page, int descriptor)
{
    memset(page, 0, sizeof(*page));
    struct stat status;
    struct fracgpu_config head;
    if (fstat(descriptor, &status) != 0 || !S_ISREG(status.st_mode))
        return FG_PAGE_UNREADABLE;
    if (status.st_size < FRACGPU_CONFIG_FILE_BYTES)
        return FG_PAGE_TRUNCATED;
    if (pread(descriptor, &head, sizeof(head), 0) != (ssize_t)sizeof(head))
        return FG_PAGE_UNREADABLE;
    page->device = status.st_dev;
    page->inode = status.st_ino;
    find_feedback(page, descriptor, status.st_size, &head);
    page->config = map_bytes(descriptor, page->mapped_bytes);
    if (page->config == NULL)
        return FG_PAGE_UNREADABLE;
    enum fg_fault fault = check(page);
    if (fault != FG_OK)
        fg_page_close(page);
    else if (page->feedback_stride != 0)
        page->feedback = (const unsigned char *)page->config + head.feedback_offset_bytes;
    return fault;
}

void fg_page_close(struct fg_page *page)
{
    if (page->config != NULL && page->mapped_bytes != 0)
        munmap((void *)page->config, page->mapped_bytes);
    page->config = NULL;
    page->feedback = NULL;
    page->mapped_bytes = 0;
    page->path[0] = '\0';
}

struct fg_limits fg_page_limits(struct fg_page *page)
{
    struct reading now;
    if (!read_consistently(page, &now)) {
        now.generation = __atomic_load_n(&page->last_generation, __ATOMIC_ACQUIRE);
        now.memory_bytes = __atomic_load_n(&page->last_memory_bytes, __ATOMIC_RELAXED);
        now.flags = __atomic_load_n(&page->last_flags, __ATOMIC_RELAXED);
    }
    return (struct fg_limits){
        .memory_bytes = now.memory_bytes,
        .generation = now.generation,
        .limited = now.memory_bytes != FRACGPU_NO_LIMIT && !(now.flags & FRACGPU_FLAG_OBSERVE),
        .overhead = !(now.flags & FRACGPU_FLAG_IGNORE_OVERHEAD),
        .suspended = now.flags & FRACGPU_FLAG_SUSPEND,
    };
}

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

#include "pause.h"

static bool read_consistently(struct fg_page *page, uint64_t *memory_bytes, uint32_t *flags)
{
    const struct fracgpu_config *config = page->config;
    for (int attempt = 0; attempt < FG_PAGE_RETRIES; attempt++) {
        uint64_t before = __atomic_load_n(&config->generation, __ATOMIC_ACQUIRE);
        if (before % 2 == 0) {
            *memory_bytes = __atomic_load_n(&config->memory_limit_bytes, __ATOMIC_RELAXED);
            *flags = __atomic_load_n(&config->flags, __ATOMIC_RELAXED);
            __atomic_thread_fence(__ATOMIC_ACQUIRE);
            if (__atomic_load_n(&config->generation, __ATOMIC_RELAXED) == before) {
                if (__atomic_load_n(&page->last_generation, __ATOMIC_RELAXED) != before) {
                    __atomic_store_n(&page->last_memory_bytes, *memory_bytes, __ATOMIC_RELAXED);
                    __atomic_store_n(&page->last_flags, *flags, __ATOMIC_RELAXED);
                    __atomic_store_n(&page->last_generation, before, __ATOMIC_RELEASE);
                }
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

static enum fg_fault check(struct fg_page *page)
{
    const struct fracgpu_config *config = page->config;
    uint64_t memory_bytes;
    uint32_t flags;
    if (__atomic_load_n(&config->magic, __ATOMIC_ACQUIRE) != FRACGPU_CONFIG_MAGIC)
        return FG_PAGE_MAGIC;
    if (config->abi_version != FRACGPU_ABI_VERSION)
        return FG_PAGE_VERSION;
    if (config->header_bytes < sizeof(*config) || config->header_bytes > FRACGPU_CONFIG_FILE_BYTES)
        return FG_PAGE_VALUE;
    if (!read_consistently(page, &memory_bytes, &flags))
        return FG_PAGE_GENERATION;
    if (memory_bytes == 0 || config->cores_percent > 100 || config->allocation_id[0] == '\0' ||
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

enum fg_fault fg_page_map(struct fg_page *page, int descriptor)
{
    memset(page, 0, sizeof(*page));
    struct stat status;
    enum fg_fault fault = FG_OK;
    void *mapping = MAP_FAILED;
    if (fstat(descriptor, &status) != 0 || !S_ISREG(status.st_mode))
        fault = FG_PAGE_UNREADABLE;
    else if (status.st_size < FRACGPU_CONFIG_FILE_BYTES)
        fault = FG_PAGE_TRUNCATED;
    else if ((mapping = mmap(NULL, FRACGPU_CONFIG_FILE_BYTES, PROT_READ, MAP_SHARED, descriptor, 0)) == MAP_FAILED)
        fault = FG_PAGE_UNREADABLE;
    if (fault != FG_OK)
        return fault;
    /* A forked child starts from nothing and maps its own. */
    madvise(mapping, FRACGPU_CONFIG_FILE_BYTES, MADV_DONTFORK);
    page->config = mapping;
    page->mapped = true;
    fault = check(page);
    if (fault != FG_OK)
        fg_page_close(page);
    return fault;
}

void fg_page_close(struct fg_page *page)
{
    if (page->mapped)
        munmap((void *)page->config, FRACGPU_CONFIG_FILE_BYTES);
    page->config = NULL;
    page->mapped = false;
}

struct fg_limits fg_page_limits(struct fg_page *page)
{
    uint64_t memory_bytes;
    uint32_t flags;
    if (!read_consistently(page, &memory_bytes, &flags)) {
        memory_bytes = __atomic_load_n(&page->last_memory_bytes, __ATOMIC_RELAXED);
        flags = __atomic_load_n(&page->last_flags, __ATOMIC_RELAXED);
    }
    bool limited = memory_bytes != FRACGPU_NO_LIMIT && !(flags & FRACGPU_FLAG_OBSERVE);
    return (struct fg_limits){.memory_bytes = memory_bytes, .limited = limited};
}

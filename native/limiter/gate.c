/*
 * gate.c: see gate.h.
 *
 * The wait is a futex on the page's generation, which works through a read-only mapping, and which the host wakes after
 * each change. It needs no cleaning up: a process that is killed here leaves nothing, a signal only makes it look again,
 * and a forked child does not have the thread that waits.
 */
#include "gate.h"

#include <errno.h>
#include <linux/futex.h>
#include <stddef.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "pause.h"

/* Where a sandbox forbids futex(2) on shared memory, looking now and then has to do. */
enum { WITHOUT_FUTEX_US = 20000 };

_Static_assert(offsetof(struct fracgpu_config, generation) % sizeof(uint32_t) == 0, "a futex is an aligned word");

/* The half of the generation that each change changes; all processors that there are shims for are little-endian. */
static const uint32_t *futex_word(const struct fg_page *page)
{
    return (const uint32_t *)(const void *)&page->config->generation;
}

/* The page's file has lost its name, or its place in the container: the allocation has been taken back. */
static bool is_gone(const struct fg_page *page)
{
    struct stat status;
    if (page->path[0] == '\0')
        return false;
    if (stat(page->path, &status) != 0)
        return errno == ENOENT || errno == ENOTDIR;
    return status.st_nlink == 0 || status.st_ino != page->inode || status.st_dev != page->device;
}

static void sleep_until_changed(const struct fg_page *page, uint32_t seen)
{
    struct timespec slice = {.tv_sec = 0, .tv_nsec = FG_GATE_SLICE_MS * 1000000L};
    if (syscall(SYS_futex, futex_word(page), FUTEX_WAIT, seen, &slice, NULL, 0) == 0)
        return;
    if (errno != EAGAIN && errno != EINTR && errno != ETIMEDOUT)
        fg_sleep(WITHOUT_FUTEX_US);
}

/* False: the page is gone. Sets `waited` when it was not open at once. */
static bool wait_for_page(struct fg_page *page, bool *waited)
{
    for (;;) {
        /* Read before the limits: a change that comes after them makes the futex return at once. */
        uint32_t seen = __atomic_load_n(futex_word(page), __ATOMIC_ACQUIRE);
        struct fg_limits limits = fg_page_limits(page);
        if (!limits.suspended) {
            __atomic_store_n(&page->open_generation, limits.generation, __ATOMIC_RELAXED);
            return true;
        }
        if (is_gone(page))
            return false;
        *waited = true;
        sleep_until_changed(page, seen);
    }
}

enum fg_gate fg_gate_wait(struct fg_group *group)
{
    bool waited;
    do {
        waited = false;
        for (uint32_t index = 0; index < group->count; index++) {
            if (!wait_for_page(&group->members[index]->page, &waited))
                return FG_GATE_GONE;
        }
        /* While one was waited for, another may have been suspended. */
    } while (waited);
    return FG_GATE_OPEN;
}

/*
 * source_container.c: limits from the config pages that the node mounted read-only.
 *
 * No environment variable is read: the program could set it.
 */
#include <fcntl.h>
#include <stdint.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "source.h"

#define ALLOCATIONS "/run/fracgpu/allocations/"
#define DRIVER "/run/fracgpu/driver/"

/* What getdents64 returns; libc's readdir would allocate memory. */
struct directory_entry {
    uint64_t inode;
    int64_t offset;
    uint16_t bytes;
    uint8_t type;
    char name[];
};

static int add_names(const char *entries, long bytes, struct fg_source_name *names, int count)
{
    for (long offset = 0; offset < bytes;) {
        const struct directory_entry *entry = (const void *)(entries + offset);
        offset += entry->bytes;
        if (entry->name[0] == '.')
            continue;
        size_t length = strlen(entry->name);
        if (count == FG_MEMBERS_MAX || length >= sizeof(names[0].text))
            return -1;
        memcpy(names[count++].text, entry->name, length + 1);
    }
    return count;
}

int fg_source_names(struct fg_source_name names[FG_MEMBERS_MAX])
{
    _Alignas(8) char entries[4096];
    int count = 0;
    int descriptor = open(ALLOCATIONS, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (descriptor < 0)
        return -1;
    /* At most FG_MEMBERS_MAX entries are accepted, so this ends. */
    while (count >= 0) {
        long bytes = syscall(SYS_getdents64, descriptor, entries, sizeof(entries));
        if (bytes <= 0) {
            count = bytes < 0 || count == 0 ? -1 : count;
            break;
        }
        count = add_names(entries, bytes, names, count);
    }
    close(descriptor);
    if (count > 0)
        fg_source_sort(names, count);
    return count;
}

enum fg_fault fg_source_open(const struct fg_source_name *name, struct fg_page *page, struct fracgpu_config *storage)
{
    char path[FG_PATH_BYTES];
    (void)storage;
    if (!fg_path_join(path, sizeof(path), ALLOCATIONS, name->text, "/config"))
        return FG_PAGE_UNREADABLE;
    enum fg_fault fault = fg_page_open(page, path);
    if (fault == FG_OK && strcmp(page->config->allocation_id, name->text) != 0) {
        fg_page_close(page);
        return FG_PAGE_VALUE;
    }
    return fault;
}

bool fg_source_state_path(const struct fg_source_name *name, char *path, size_t bytes)
{
    return fg_path_join(path, bytes, ALLOCATIONS, name->text, "/state");
}

bool fg_source_real_library(const char *name, char *path, size_t bytes)
{
    return fg_path_join(path, bytes, DRIVER, name, "");
}

/*
 * source_container.c: limits from the config pages that the node mounted read-only.
 *
 * No environment variable is read: the program could set it. And no page that the program could have made: limits of
 * one GPU add up, so a page of its own would be a limit of its own.
 */
#include <fcntl.h>
#include <linux/stat.h>
#include <stdint.h>
#include <string.h>
#include <sys/syscall.h>
#include <sys/vfs.h>
#include <unistd.h>

#include "source.h"

#define ALLOCATIONS "/run/fracgpu/allocations/"
#define DRIVER "/run/fracgpu/driver/"

/* ST_RDONLY of statvfs(3), as statfs(2) returns it too: the mount's flag or the file system's. */
enum { MOUNT_READ_ONLY = 1 };

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

/* The open page is the root of a mount, which takes CAP_SYS_ADMIN to make, and that mount is read-only. */
static bool is_mounted_read_only(int descriptor, int directory)
{
    struct statfs mount;
    struct statx page, parent;
    if (fstatfs(descriptor, &mount) != 0 || !(mount.f_flags & MOUNT_READ_ONLY))
        return false;
    if (syscall(SYS_statx, descriptor, "", AT_EMPTY_PATH, STATX_BASIC_STATS, &page) != 0)
        return false;
    if (page.stx_attributes_mask & STATX_ATTR_MOUNT_ROOT)
        return page.stx_attributes & STATX_ATTR_MOUNT_ROOT;
    /* Before Linux 5.8 a mount shows only by its device: the node's /run is none of the container's file systems. */
    if (syscall(SYS_statx, directory, "", AT_EMPTY_PATH, STATX_BASIC_STATS, &parent) != 0)
        return false;
    return page.stx_dev_major != parent.stx_dev_major || page.stx_dev_minor != parent.stx_dev_minor;
}

/* The directory is opened once, so that nobody exchanges it between the look and the use. */
static enum fg_fault open_in(int directory, struct fg_page *page)
{
    int descriptor = openat(directory, "config", O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY);
    if (descriptor < 0)
        return FG_PAGE_UNREADABLE;
    enum fg_fault fault = is_mounted_read_only(descriptor, directory) ? fg_page_map(page, descriptor) : FG_PAGE_FOREIGN;
    close(descriptor);
    return fault;
}

enum fg_fault fg_source_open(const struct fg_source_name *name, struct fg_page *page, struct fracgpu_config *storage)
{
    char path[FG_PATH_BYTES];
    (void)storage;
    memset(page, 0, sizeof(*page));
    if (!fg_path_join(path, sizeof(path), ALLOCATIONS, name->text, ""))
        return FG_PAGE_UNREADABLE;
    int directory = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (directory < 0)
        return FG_PAGE_UNREADABLE;
    enum fg_fault fault = open_in(directory, page);
    close(directory);
    if (fault == FG_OK && strcmp(page->config->allocation_id, name->text) != 0) {
        fg_page_close(page);
        return FG_PAGE_VALUE;
    }
    /* Without a path nobody notices that the page is gone; it is as long as the directory's and fits. */
    if (fault == FG_OK && !fg_path_join(page->path, sizeof(page->path), path, "/config", ""))
        page->path[0] = '\0';
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

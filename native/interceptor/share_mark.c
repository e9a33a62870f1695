/*
 * share_mark.c: see share_mark.h.
 */
#include "share_mark.h"

#include <fcntl.h>
#include <string.h>
#include <unistd.h>

#ifndef F_OFD_SETLK
#define F_OFD_SETLK 37
#endif

/* Where the two locks lie: far from any byte that a program would lock. */
#define TAG_BASE  (UINT64_C(1) << 62)
#define NAME_BASE (TAG_BASE + FG_SHARE_OFFSET_MAX)

static void lock(int descriptor, uint64_t start, uint64_t bytes)
{
    struct flock range = {
        .l_type = F_RDLCK, .l_whence = SEEK_SET, .l_start = (off_t)start, .l_len = (off_t)bytes, .l_pid = 0};
    fcntl(descriptor, F_OFD_SETLK, &range);
}

void fg_share_mark(int descriptor, const struct fg_share_mark *mark)
{
    lock(descriptor, TAG_BASE + mark->tag, 1);
    lock(descriptor, NAME_BASE + fg_share_offset(&mark->name), mark->name.granules);
}

static bool read_fdinfo(int descriptor, char *text, size_t bytes)
{
    char path[40] = "/proc/self/fdinfo/";
    char digits[12];
    size_t end = strlen(path);
    int count = 0;
    for (unsigned rest = (unsigned)descriptor; count == 0 || rest != 0; rest /= 10)
        digits[count++] = (char)('0' + rest % 10);
    while (count > 0)
        path[end++] = digits[--count];
    path[end] = '\0';
    int info = open(path, O_RDONLY | O_CLOEXEC);
    if (info < 0)
        return false;
    ssize_t length = read(info, text, bytes - 1);
    close(info);
    text[length < 0 ? 0 : length] = '\0';
    return length > 0;
}

/* The last two numbers of a line: what the kernel says a lock reaches from and to. */
static void last_two(const char *begin, const char *end, uint64_t *first, uint64_t *last)
{
    uint64_t *targets[2] = {last, first};
    *first = *last = 0;
    for (int index = 0; index < 2; index++) {
        uint64_t unit = 1;
        while (end > begin && end[-1] == ' ')
            end--;
        for (; end > begin && end[-1] >= '0' && end[-1] <= '9'; end--, unit *= 10)
            *targets[index] += unit * (uint64_t)(end[-1] - '0');
    }
}

bool fg_share_read_mark(int descriptor, struct fg_share_mark *mark)
{
    char text[2048];
    bool tagged = false, named = false;
    if (descriptor < 0 || !read_fdinfo(descriptor, text, sizeof(text)))
        return false;
    const char *line = text;
    while (*line != '\0') {
        const char *end = strchr(line, '\n');
        uint64_t first, last;
        if (end == NULL)
            break;
        if (strncmp(line, "lock:", 5) == 0) {
            last_two(line, end, &first, &last);
            if (first >= NAME_BASE) {
                named |= fg_share_parse(first - NAME_BASE, last - NAME_BASE, &mark->name);
            } else if (first >= TAG_BASE) {
                mark->tag = first - TAG_BASE;
                tagged = true;
            }
        }
        line = end + 1;
    }
    return tagged && named;
}

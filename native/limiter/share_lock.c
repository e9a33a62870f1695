/*
 * share_lock.c: see share_lock.h.
 *
 * offset = 2^62 + area * 2^60 + slot * 2^48 + number * 2^20; the length is the number of granules.
 */
#include "share_lock.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "amount.h"

#ifndef F_OFD_GETLK
#define F_OFD_GETLK 36
#define F_OFD_SETLK 37
#endif

#define BASE          (UINT64_C(1) << 62)
#define AREA_BITS     60
#define SLOT_BITS     48
#define NUMBER_BITS   20
#define GRANULES_MAX  ((UINT32_C(1) << NUMBER_BITS) - 1)
#define MAPPING_BYTES 4096u

struct fg_share_name fg_share_name(uint32_t slot, uint32_t number, uint64_t bytes)
{
    uint64_t granules = fg_round_up(bytes, FG_SHARE_GRANULE) / FG_SHARE_GRANULE;
    granules = granules == 0 ? 1 : fg_min(granules, GRANULES_MAX);
    return (struct fg_share_name){.slot = slot, .number = number % FG_SHARE_NUMBERS, .granules = (uint32_t)granules};
}

uint64_t fg_share_offset(const struct fg_share_name *name)
{
    return ((uint64_t)name->slot << SLOT_BITS) + ((uint64_t)name->number << NUMBER_BITS);
}

bool fg_share_parse(uint64_t first, uint64_t last, struct fg_share_name *name)
{
    if (first >= FG_SHARE_OFFSET_MAX || last < first || (first & GRANULES_MAX) != 0 || last - first >= GRANULES_MAX)
        return false;
    name->slot = (uint32_t)(first >> SLOT_BITS);
    name->number = (uint32_t)(first >> NUMBER_BITS) % FG_SHARE_NUMBERS;
    name->granules = (uint32_t)(last - first) + 1;
    return true;
}

uint64_t fg_share_tag(const struct fg_ledger *ledger)
{
    uint64_t mixed = ((uint64_t)ledger->device * UINT64_C(0x9e3779b97f4a7c15)) ^
                     ((uint64_t)ledger->inode * UINT64_C(0xbf58476d1ce4e5b9));
    return (mixed ^ mixed >> 31) % FG_SHARE_OFFSET_MAX;
}

static uint64_t begin_of(enum fg_share_area area, uint64_t offset)
{
    return BASE + ((uint64_t)area << AREA_BITS) + offset;
}

/* The state file anew; -1 when its path leads elsewhere by now. */
static int open_state(const struct fg_ledger *ledger)
{
    struct stat status;
    int descriptor = open(ledger->path, O_RDWR | O_CLOEXEC | O_NONBLOCK | O_NOCTTY);
    if (descriptor >= 0 &&
        (fstat(descriptor, &status) != 0 || status.st_dev != ledger->device || status.st_ino != ledger->inode)) {
        close(descriptor);
        descriptor = -1;
    }
    return descriptor;
}

static struct flock range(short type, uint64_t begin, uint64_t end)
{
    return (struct flock){
        .l_type = type, .l_whence = SEEK_SET, .l_start = (off_t)begin, .l_len = (off_t)(end - begin), .l_pid = 0};
}

static bool take(int descriptor, const struct fg_share_name *name, uint64_t bytes, unsigned areas)
{
    for (unsigned area = FG_SHARE_OFFERED; area <= FG_SHARE_LEFT; area++) {
        /* What others may count as free is rounded down. */
        uint64_t granules = area == FG_SHARE_LEFT ? fg_min(bytes / FG_SHARE_GRANULE, GRANULES_MAX) : name->granules;
        uint64_t begin = begin_of((enum fg_share_area)area, fg_share_offset(name));
        struct flock lock = range(F_RDLCK, begin, begin + granules);
        if ((areas >> area & 1) != 0 && granules != 0 && fcntl(descriptor, F_OFD_SETLK, &lock) != 0)
            return false;
    }
    return true;
}

void *fg_share_lock(const struct fg_ledger *ledger, const struct fg_share_name *name, uint64_t bytes, unsigned areas)
{
    int descriptor = open_state(ledger);
    void *kept = MAP_FAILED;
    if (descriptor < 0)
        return NULL;
    if (take(descriptor, name, bytes, areas))
        kept = mmap(NULL, MAPPING_BYTES, PROT_READ, MAP_SHARED, descriptor, 0);
    /* A child that kept the mapping would hold what only its parent holds. */
    if (kept != MAP_FAILED && madvise(kept, MAPPING_BYTES, MADV_DONTFORK) != 0) {
        munmap(kept, MAPPING_BYTES);
        kept = MAP_FAILED;
    }
    close(descriptor);
    return kept == MAP_FAILED ? NULL : kept;
}

void fg_share_unlock(void *kept)
{
    if (kept != NULL)
        munmap(kept, MAPPING_BYTES);
}

/* Some lock in [*begin, *end): its range, cut to that one. False: there is none. */
static bool some_lock(int descriptor, uint64_t *begin, uint64_t *end)
{
    struct flock lock = range(F_WRLCK, *begin, *end);
    if (fcntl(descriptor, F_OFD_GETLK, &lock) != 0 || lock.l_type == F_UNLCK)
        return false;
    uint64_t first = (uint64_t)lock.l_start;
    /* A length of 0 reaches to the end of all offsets. */
    uint64_t after = lock.l_len == 0 ? *end : first + (uint64_t)lock.l_len;
    *begin = first > *begin ? first : *begin;
    *end = fg_min(after, *end);
    return true;
}

bool fg_share_locked(const struct fg_ledger *ledger, enum fg_share_area area, struct fg_share_name *name)
{
    int descriptor = open_state(ledger);
    if (descriptor < 0)
        return true;
    uint64_t begin = begin_of(area, fg_share_offset(name));
    uint64_t end = begin + (UINT64_C(1) << NUMBER_BITS);
    bool locked = some_lock(descriptor, &begin, &end);
    if (locked)
        name->granules = (uint32_t)fg_min(end - begin, GRANULES_MAX);
    close(descriptor);
    return locked;
}

typedef void visit_t(void *context, int descriptor, uint64_t begin, uint64_t end);

/*
 * Visit every locked range in [begin, end), those that several processes have once. The kernel names any lock that is in
 * the way, not the first: what is left of it and right of it is looked at afterwards. The smaller part first, so that the
 * parts that wait are never more than the bits of an offset.
 */
static void each_lock(int descriptor, uint64_t begin, uint64_t end, visit_t *visit, void *context)
{
    struct {
        uint64_t begin, end;
    } waiting[64] = {{begin, end}};
    int count = 1;
    while (count > 0) {
        count--;
        begin = waiting[count].begin;
        end = waiting[count].end;
        uint64_t first = begin, after = end;
        if (begin >= end || !some_lock(descriptor, &first, &after))
            continue;
        visit(context, descriptor, first, after);
        bool left_is_smaller = first - begin < end - after;
        if (count > 62)
            return;
        waiting[count].begin = left_is_smaller ? after : begin;
        waiting[count].end = left_is_smaller ? end : first;
        waiting[count + 1].begin = left_is_smaller ? begin : after;
        waiting[count + 1].end = left_is_smaller ? first : end;
        count += 2;
    }
}

static void add_granules(void *total, int descriptor, uint64_t begin, uint64_t end)
{
    (void)descriptor;
    *(uint64_t *)total = fg_add(*(uint64_t *)total, fg_multiply(end - begin, FG_SHARE_GRANULE));
}

uint64_t fg_share_held_bytes(int descriptor, uint32_t slot)
{
    uint64_t total = 0;
    uint64_t begin = begin_of(FG_SHARE_HELD, (uint64_t)slot << SLOT_BITS);
    each_lock(descriptor, begin, begin + (UINT64_C(1) << SLOT_BITS), add_granules, &total);
    return total;
}

static void add_if_nobodys(void *total, int descriptor, uint64_t begin, uint64_t end)
{
    uint64_t held_begin = begin - begin_of(FG_SHARE_LEFT, 0) + begin_of(FG_SHARE_HELD, 0);
    uint64_t held_end = held_begin + 1;
    if (!some_lock(descriptor, &held_begin, &held_end))
        add_granules(total, descriptor, begin, end);
}

uint64_t fg_share_stale_bytes(const struct fg_ledger *ledger)
{
    uint64_t total = 0;
    uint64_t begin = begin_of(FG_SHARE_LEFT, 0);
    int descriptor = open_state(ledger);
    if (descriptor < 0)
        return 0;
    each_lock(descriptor, begin, begin + FG_SHARE_OFFSET_MAX, add_if_nobodys, &total);
    close(descriptor);
    return total;
}

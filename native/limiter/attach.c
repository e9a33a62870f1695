/*
 * attach.c: joining an allocation.
 *
 * The descriptor lives only as long as this function: the mapping keeps the open file, and with it the slot's lock,
 * so nothing leaks into the program and nothing that the program closes can cost it its slot.
 */
#include <fcntl.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "amount.h"
#include "ledger.h"
#include "slot_lock.h"

static uint64_t own_start_time(void)
{
    char text[1024];
    int descriptor = open("/proc/self/stat", O_RDONLY | O_CLOEXEC);
    if (descriptor < 0)
        return 0;
    ssize_t length = read(descriptor, text, sizeof(text) - 1);
    close(descriptor);
    if (length <= 0)
        return 0;
    text[length] = '\0';
    /* The name in parentheses may hold anything; field 3 follows the last one. */
    const char *cursor = strrchr(text, ')');
    for (int field = 2; cursor != NULL && field < 22; field++) {
        cursor = strchr(cursor, ' ');
        if (cursor != NULL)
            cursor++;
    }
    uint64_t ticks = 0;
    for (; cursor != NULL && *cursor >= '0' && *cursor <= '9'; cursor++)
        ticks = ticks * 10 + (uint64_t)(*cursor - '0');
    return ticks;
}

static void raise_high_water(struct fg_ledger *ledger, uint32_t index)
{
    uint64_t *mark = &ledger->header->slot_high_water;
    uint64_t seen = __atomic_load_n(mark, __ATOMIC_SEQ_CST);
    /* Every failed exchange means that somebody raised the mark, so this ends after slot_count rounds at most. */
    while (seen < index + 1u) {
        if (__atomic_compare_exchange_n(mark, &seen, index + 1u, 0, __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST))
            return;
    }
}

/* The lock of slot `index` is held: make the slot ours. */
static void occupy(struct fg_ledger *ledger, uint32_t index)
{
    struct fracgpu_slot *slot = fg_slot(ledger, index);
    if (__atomic_exchange_n(&slot->state, FRACGPU_SLOT_CLAIMING, __ATOMIC_SEQ_CST) == FRACGPU_SLOT_LIVE)
        __atomic_fetch_add(&ledger->header->reaped_slots, 1, __ATOMIC_RELAXED);
    struct stat pid_namespace;
    slot->pid = (int32_t)getpid();
    slot->start_time_ticks = own_start_time();
    slot->pid_namespace_inode = stat("/proc/self/ns/pid", &pid_namespace) == 0 ? (uint64_t)pid_namespace.st_ino : 0;
    slot->generation++;
    __atomic_store_n(&slot->committed_bytes, 0, __ATOMIC_RELAXED);
    __atomic_store_n(&slot->pending_bytes, 0, __ATOMIC_RELAXED);
    __atomic_store_n(&slot->overhead_bytes, 0, __ATOMIC_RELAXED);
    __atomic_store_n(&slot->pool_bytes, 0, __ATOMIC_RELAXED);
    __atomic_store_n(&slot->managed_bytes, 0, __ATOMIC_RELAXED);
    __atomic_store_n(&slot->host_pinned_bytes, 0, __ATOMIC_RELAXED);
    ledger->own = slot;
    ledger->own_index = index;
    raise_high_water(ledger, index);
    __atomic_store_n(&slot->state, FRACGPU_SLOT_LIVE, __ATOMIC_SEQ_CST);
}

static bool claim_slot(struct fg_ledger *ledger, int descriptor)
{
    /* First the slots that look free, then those whose owner may have died unnoticed. */
    for (int pass = 0; pass < 2; pass++) {
        for (uint32_t index = 0; index < ledger->slot_count; index++) {
            uint32_t state = __atomic_load_n(&fg_slot(ledger, index)->state, __ATOMIC_RELAXED);
            bool taken = state == FRACGPU_SLOT_LIVE || state == FRACGPU_SLOT_CLAIMING;
            if (taken == (pass == 0) || !fg_slot_lock(descriptor, fg_slot_offset(ledger, index)))
                continue;
            occupy(ledger, index);
            return true;
        }
    }
    return false;
}

static enum fg_fault map_file(struct fg_ledger *ledger, int descriptor, const uint8_t uuid[16])
{
    struct stat status;
    struct fracgpu_state_header header;
    if (fstat(descriptor, &status) != 0 || !S_ISREG(status.st_mode))
        return FG_STATE_UNREADABLE;
    if (pread(descriptor, &header, sizeof(header), 0) != (ssize_t)sizeof(header))
        return FG_STATE_SHORT;
    enum fg_fault fault = fg_ledger_check(&header, status.st_size, uuid);
    if (fault != FG_OK)
        return fault;
    ledger->mapped_bytes = header.header_bytes + (size_t)header.slot_count * header.slot_stride_bytes;
    void *mapping = mmap(NULL, ledger->mapped_bytes, PROT_READ | PROT_WRITE, MAP_SHARED, descriptor, 0);
    if (mapping == MAP_FAILED)
        return FG_STATE_UNREADABLE;
    ledger->header = mapping;
    /* A forked child that kept the mapping would keep the slot alive after its parent. */
    if (madvise(mapping, ledger->mapped_bytes, MADV_DONTFORK) != 0)
        return FG_STATE_UNREADABLE;
    ledger->slots = (unsigned char *)mapping + header.header_bytes;
    ledger->slot_count = header.slot_count;
    ledger->slot_stride = header.slot_stride_bytes;
    ledger->device = status.st_dev;
    ledger->inode = status.st_ino;
    return FG_OK;
}

enum fg_fault fg_ledger_attach(struct fg_ledger *ledger, const char *path, const uint8_t uuid[16])
{
    memset(ledger, 0, sizeof(*ledger));
    size_t length = strlen(path);
    if (length >= sizeof(ledger->path))
        return FG_STATE_UNREADABLE;
    memcpy(ledger->path, path, length + 1);
    int descriptor = open(path, O_RDWR | O_CLOEXEC | O_NONBLOCK | O_NOCTTY);
    if (descriptor < 0)
        return FG_STATE_UNREADABLE;
    enum fg_fault fault = map_file(ledger, descriptor, uuid);
    if (fault == FG_OK) {
        /* Slots of processes that ended since are found by their locks, and the low ones are used again. */
        fg_ledger_reap(ledger);
        if (!claim_slot(ledger, descriptor))
            fault = FG_STATE_FULL;
    }
    close(descriptor);
    if (fault != FG_OK)
        fg_ledger_detach(ledger);
    return fault;
}

void fg_ledger_detach(struct fg_ledger *ledger)
{
    if (ledger->header != NULL)
        munmap(ledger->header, ledger->mapped_bytes);
    ledger->header = NULL;
    ledger->own = NULL;
}

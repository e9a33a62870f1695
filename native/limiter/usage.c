/*
 * usage.c: who uses how much of an allocation, asked by a process that has no part in it (an NVML client).
 *
 * It takes no slot and keeps nothing: the file is opened, read slot by slot and closed within the call.
 */
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include "amount.h"
#include "ledger.h"
#include "slot_lock.h"

static enum fg_fault each(int descriptor, const struct fracgpu_state_header *header, fg_usage_visit *visit,
                          void *context)
{
    uint64_t high_water = fg_min(header->slot_high_water, header->slot_count);
    for (uint64_t index = 0; index < high_water; index++) {
        struct fracgpu_slot slot;
        off_t offset = (off_t)header->header_bytes + (off_t)index * header->slot_stride_bytes;
        if (pread(descriptor, &slot, sizeof(slot), offset) != (ssize_t)sizeof(slot))
            return FG_STATE_SHORT;
        if (slot.state == FRACGPU_SLOT_LIVE && fg_slot_locked(descriptor, offset))
            visit(context, &slot, (uint32_t)index);
    }
    return FG_OK;
}

enum fg_fault fg_usage_each(const char *path, const uint8_t uuid[16], fg_usage_visit *visit, void *context)
{
    struct stat status;
    struct fracgpu_state_header header;
    int descriptor = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY);
    if (descriptor < 0)
        return FG_STATE_UNREADABLE;
    enum fg_fault fault = FG_OK;
    if (fstat(descriptor, &status) != 0 || !S_ISREG(status.st_mode))
        fault = FG_STATE_UNREADABLE;
    else if (pread(descriptor, &header, sizeof(header), 0) != (ssize_t)sizeof(header))
        fault = FG_STATE_SHORT;
    else
        fault = fg_ledger_check(&header, status.st_size, uuid);
    if (fault == FG_OK)
        fault = each(descriptor, &header, visit, context);
    close(descriptor);
    return fault;
}

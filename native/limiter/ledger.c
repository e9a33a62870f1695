/*
 * ledger.c: is this file a state file of ours.
 */
#include "ledger.h"

#include <string.h>

#include "amount.h"

enum fg_fault fg_ledger_check(const struct fracgpu_state_header *header, off_t file_bytes, const uint8_t uuid[16])
{
    if (header->magic != FRACGPU_STATE_MAGIC || header->abi_version != FRACGPU_ABI_VERSION)
        return FG_STATE_INVALID;
    if (header->header_bytes < sizeof(*header) || header->header_bytes > 65536 || header->header_bytes % 64 != 0)
        return FG_STATE_INVALID;
    if (header->slot_stride_bytes < sizeof(struct fracgpu_slot) || header->slot_stride_bytes > 4096 ||
        header->slot_stride_bytes % 64 != 0)
        return FG_STATE_INVALID;
    if (header->slot_count == 0 || header->slot_count > FG_SLOTS_MAX)
        return FG_STATE_INVALID;
    if (file_bytes < (off_t)header->header_bytes + (off_t)header->slot_count * header->slot_stride_bytes)
        return FG_STATE_SHORT;
    if (memcmp(header->device_uuid, uuid, sizeof(header->device_uuid)) != 0)
        return FG_STATE_DEVICE;
    return FG_OK;
}

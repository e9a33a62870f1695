/*
 * scan_order DIRECTORY: between a scan's two reads of a slot, that slot's owner commits what it has announced.
 *
 * The limiter under test is compiled with FRACGPU_TEST_BETWEEN_READS=between_reads. Whoever reads `committed` first
 * sees neither, and grants more than the limit: exit 1.
 */
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "ledger.h"

static struct fg_ledger other;

void between_reads(const struct fg_ledger *ledger, uint32_t index);
void between_reads(const struct fg_ledger *ledger, uint32_t index)
{
    if (ledger == &other || index != other.own_index || other.own->pending_bytes == 0)
        return;
    uint64_t bytes = other.own->pending_bytes;
    other.own->committed_bytes += bytes;
    other.own->pending_bytes -= bytes;
}

int main(int count, char **arguments)
{
    struct fg_ledger own;
    struct fracgpu_state_header header = {.magic = FRACGPU_STATE_MAGIC, .abi_version = FRACGPU_ABI_VERSION,
                                          .header_bytes = FRACGPU_STATE_HEADER_BYTES, .slot_count = 4,
                                          .slot_stride_bytes = FRACGPU_SLOT_STRIDE_BYTES};
    char path[FG_PATH_BYTES];
    if (count != 2)
        return 3;
    snprintf(path, sizeof(path), "%s/state", arguments[1]);
    int descriptor = open(path, O_RDWR | O_CREAT | O_TRUNC, 0600);
    if (write(descriptor, &header, sizeof(header)) != sizeof(header) || ftruncate(descriptor, 1 << 16) != 0)
        return 3;
    close(descriptor);
    if (fg_ledger_attach(&other, path, header.device_uuid) != FG_OK ||
        fg_ledger_attach(&own, path, header.device_uuid) != FG_OK)
        return 3;
    other.own->pending_bytes = 600;
    enum fg_verdict verdict = fg_ledger_reserve(&own, 1000, 600, FG_PLAIN);
    if (other.own->committed_bytes != 600)
        return 3;
    return verdict == FG_REFUSED && own.own->committed_bytes == 0 ? 0 : 1;
}

/*
 * share.h: device memory that other processes can hold.
 *
 * Memory is this process's own until it is exported; then its bytes move into a file without a name, its amount into a
 * record of the machine, and both live for as long as anybody holds them: a process, or a descriptor on its way to one.
 */
#ifndef FAKE_SHARE_H
#define FAKE_SHARE_H

#include "driver.h"

struct share {
    struct share *next;
    struct machine_hold hold;
    int file;                             /* the bytes */
    uint8_t *bytes;
    size_t size;
    int device;
    int references;                       /* of this process */
};

/* Where a share can be found from another process. */
struct share_address {
    uint64_t serial;
    uint64_t size;
    uint64_t file_inode;
    int32_t pid;
    uint16_t index;
    uint16_t file;                        /* number of the descriptor in that process */
    unsigned char uuid[16];               /* of the GPU */
};

/* Make the memory at `bytes`, charged to this process, shareable: it stays where it is. One reference. */
CUresult share_make(int device, uint8_t *bytes, size_t size, struct share **share);
/* The share that another process made; one more reference when this process has it already. */
CUresult share_open(const struct share_address *address, struct share **share);
bool share_is_here(const struct share_address *address);
void share_drop(struct share *share);
struct share_address share_locate(const struct share *share);

/* A descriptor that stands for `message` and keeps `share` alive. */
CUresult share_export(const struct share *share, const void *message, size_t size, int *descriptor);
/* What such a descriptor says, and its share with one more reference. INVALID_VALUE for one of another kind. */
CUresult share_import(int descriptor, const struct share_address *address_in_message, void *message, size_t size,
                      struct share **share);

#endif /* FAKE_SHARE_H */

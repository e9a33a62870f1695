/* access.h: from addresses to bytes, for what copies and fills memory. */
#ifndef FAKE_ACCESS_H
#define FAKE_ACCESS_H

#include "driver.h"

enum access_side {
    SIDE_DEVICE,                          /* the caller says that it is a device pointer */
    SIDE_HOST,                            /* the caller says that it is host memory */
    SIDE_ANY                              /* unified addressing decides; unknown addresses are host memory */
};

/* Checks that [address, address + size) can be read or written from that side. */
CUresult access_check(CUdeviceptr address, size_t size, enum access_side side, bool write);
/* The bytes at an address that was checked, and in *length how many of `size` lie there in one piece. */
uint8_t *access_piece(CUdeviceptr address, size_t size, size_t *length);

#endif /* FAKE_ACCESS_H */

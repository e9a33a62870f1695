/*
 * slot_lock.c: F_OFD_* commands, which headers for glibc 2.17 do not name yet.
 */
#include "slot_lock.h"

#include <fcntl.h>
#include <unistd.h>

#ifndef F_OFD_GETLK
#define F_OFD_GETLK 36
#define F_OFD_SETLK 37
#endif

static struct flock one_byte(short type, off_t offset)
{
    return (struct flock){.l_type = type, .l_whence = SEEK_SET, .l_start = offset, .l_len = 1, .l_pid = 0};
}

bool fg_slot_lock(int descriptor, off_t offset)
{
    struct flock lock = one_byte(F_WRLCK, offset);
    return fcntl(descriptor, F_OFD_SETLK, &lock) == 0;
}

void fg_slot_unlock(int descriptor, off_t offset)
{
    struct flock lock = one_byte(F_UNLCK, offset);
    fcntl(descriptor, F_OFD_SETLK, &lock);
}

bool fg_slot_locked(int descriptor, off_t offset)
{
    struct flock lock = one_byte(F_WRLCK, offset);
    return fcntl(descriptor, F_OFD_GETLK, &lock) != 0 || lock.l_type != F_UNLCK;
}

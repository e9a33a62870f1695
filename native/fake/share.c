/* share.c: see share.h. */
#define _GNU_SOURCE
#include "share.h"

#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#define PAGE ((size_t)4096)
#define HIGH_DESCRIPTOR 512               /* out of the way of programs that count theirs */

static struct share *shares;

static int new_file(size_t size)
{
    int fd = (int)syscall(SYS_memfd_create, "fracgpu-fake-memory", 1u /* close on exec */);
    if (fd < 0) {
        return -1;
    }
    int high = fcntl(fd, F_DUPFD_CLOEXEC, HIGH_DESCRIPTOR);
    if (high >= 0) {
        close(fd);
        fd = high;
    }
    if (ftruncate(fd, (off_t)size) != 0) {
        close(fd);
        return -1;
    }
    return fd;
}

static bool all_zero(const uint8_t *page)
{
    return page[0] == 0 && memcmp(page, page + 1, PAGE - 1) == 0;
}

/* Only what was ever written: a modelled gigabyte that nobody touched costs nothing. */
static bool copy_touched(int fd, const uint8_t *bytes, size_t size)
{
    size_t pages = size / PAGE;
    unsigned char *resident = malloc(pages);
    bool copied = resident != NULL && mincore((void *)(uintptr_t)bytes, size, resident) == 0;
    for (size_t i = 0; copied && i < pages; i++) {
        if ((resident[i] & 1) != 0 && !all_zero(bytes + i * PAGE)) {
            copied = pwrite(fd, bytes + i * PAGE, PAGE, (off_t)(i * PAGE)) == (ssize_t)PAGE;
        }
    }
    free(resident);
    return copied;
}

static uint8_t *map_file(uint8_t *at, int fd, size_t size)
{
    void *p = mmap(at, size, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_NORESERVE | (at != NULL ? MAP_FIXED : 0), fd, 0);
    if (p == MAP_FAILED) {
        return NULL;
    }
    madvise(p, size, MADV_DONTDUMP);
    return p;
}

static struct share *add(const struct share *content)
{
    struct share *share = malloc(sizeof *share);
    if (share != NULL) {
        *share = *content;
        share->next = shares;
        share->references = 1;
        shares = share;
    }
    return share;
}

CUresult share_make(int device, uint8_t *bytes, size_t size, struct share **out)
{
    struct share content = { .file = new_file(size), .size = size, .device = device };
    REQUIRE(content.file >= 0, CUDA_ERROR_OUT_OF_MEMORY);
    bool copied = copy_touched(content.file, bytes, size);
    if (!copied || machine_share(&fake_machine, device_at(device)->gpu, size, &content.hold) != MACHINE_OK) {
        close(content.file);
        return CUDA_ERROR_OUT_OF_MEMORY;
    }
    content.bytes = map_file(bytes, content.file, size);
    *out = content.bytes != NULL ? add(&content) : NULL;
    return *out != NULL ? CUDA_SUCCESS : CUDA_ERROR_OPERATING_SYSTEM;
}

static struct share *find(const struct share_address *address)
{
    struct share *share = shares;
    while (share != NULL && (share->hold.index != address->index || share->hold.serial != address->serial)) {
        share = share->next;
    }
    return share;
}

bool share_is_here(const struct share_address *address)
{
    return find(address) != NULL;
}

static int device_of(const struct share_address *address)
{
    for (int device = 0; device < device_count(); device++) {
        if (memcmp(device_at(device)->hw->uuid, address->uuid, sizeof address->uuid) == 0) {
            return device;
        }
    }
    return -1;
}

/* `file` becomes the share's, or is closed. */
static CUresult join(const struct share_address *address, int file, struct share **out)
{
    struct share content = { .file = file, .size = address->size, .device = device_of(address) };
    CUresult rc = content.device >= 0 ? CUDA_SUCCESS : CUDA_ERROR_NOT_SUPPORTED;
    if (rc == CUDA_SUCCESS &&
        machine_join(&fake_machine, address->index, address->serial, &content.hold) != MACHINE_OK) {
        rc = CUDA_ERROR_INVALID_HANDLE;
    }
    if (rc != CUDA_SUCCESS) {
        close(file);
        return rc;
    }
    content.bytes = map_file(NULL, file, content.size);
    *out = content.bytes != NULL ? add(&content) : NULL;
    if (*out == NULL) {
        machine_leave(&fake_machine, &content.hold);
        close(file);
        return CUDA_ERROR_OUT_OF_MEMORY;
    }
    return CUDA_SUCCESS;
}

CUresult share_open(const struct share_address *address, struct share **out)
{
    char path[64];
    struct stat st;
    *out = find(address);
    if (*out != NULL) {
        (*out)->references++;
        return CUDA_SUCCESS;
    }
    snprintf(path, sizeof path, "/proc/%d/fd/%d", address->pid, address->file);
    int file = open(path, O_RDWR | O_CLOEXEC);
    REQUIRE(file >= 0, CUDA_ERROR_INVALID_HANDLE);
    if (fstat(file, &st) != 0 || st.st_ino != address->file_inode) {
        close(file);
        return CUDA_ERROR_INVALID_HANDLE;
    }
    return join(address, file, out);
}

void share_drop(struct share *share)
{
    if (--share->references != 0) {
        return;
    }
    struct share **link = &shares;
    while (*link != share) {
        link = &(*link)->next;
    }
    *link = share->next;
    munmap(share->bytes, share->size);
    close(share->file);
    machine_leave(&fake_machine, &share->hold);
    free(share);
}

struct share_address share_locate(const struct share *share)
{
    struct stat st = { .st_ino = 0 };
    struct share_address address = { .serial = share->hold.serial, .size = share->size, .pid = (int32_t)getpid(),
                                     .index = (uint16_t)share->hold.index, .file = (uint16_t)share->file };
    fstat(share->file, &st);
    address.file_inode = st.st_ino;
    memcpy(address.uuid, device_at(share->device)->hw->uuid, sizeof address.uuid);
    return address;
}

/*
 * The descriptor is a socket with one message in its queue, which carries the file of the bytes and a description that
 * holds the record. Who gets the socket looks at the message without taking it; when the last descriptor of the socket
 * is closed, in whatever process or in flight to one, the kernel drops the message and what it carries.
 */
CUresult share_export(const struct share *share, const void *message, size_t size, int *descriptor)
{
    int ends[2];
    int carried[2] = { share->file, machine_hold_descriptor(&fake_machine, &share->hold) };
    REQUIRE(carried[1] >= 0, CUDA_ERROR_OUT_OF_MEMORY);
    if (socketpair(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0, ends) != 0) {
        close(carried[1]);
        return CUDA_ERROR_OUT_OF_MEMORY;
    }
    union { struct cmsghdr header; char space[CMSG_SPACE(sizeof carried)]; } control = { .header = { 0 } };
    struct iovec part = { (void *)(uintptr_t)message, size };
    struct msghdr letter = { .msg_iov = &part, .msg_iovlen = 1, .msg_control = &control,
                             .msg_controllen = sizeof control.space };
    struct cmsghdr *files = CMSG_FIRSTHDR(&letter);
    files->cmsg_level = SOL_SOCKET;
    files->cmsg_type = SCM_RIGHTS;
    files->cmsg_len = CMSG_LEN(sizeof carried);
    memcpy(CMSG_DATA(files), carried, sizeof carried);
    bool sent = sendmsg(ends[0], &letter, MSG_NOSIGNAL) == (ssize_t)size;
    close(ends[0]);
    close(carried[1]);
    if (!sent) {
        close(ends[1]);
        return CUDA_ERROR_OUT_OF_MEMORY;
    }
    *descriptor = ends[1];
    return CUDA_SUCCESS;
}

static CUresult look_into(int descriptor, void *message, size_t size, int carried[2])
{
    union { struct cmsghdr header; char space[CMSG_SPACE(2 * sizeof(int))]; } control = { .header = { 0 } };
    struct iovec part = { message, size };
    struct msghdr letter = { .msg_iov = &part, .msg_iovlen = 1, .msg_control = &control,
                             .msg_controllen = sizeof control.space };
    ssize_t got = recvmsg(descriptor, &letter, MSG_PEEK | MSG_DONTWAIT | MSG_CMSG_CLOEXEC);
    struct cmsghdr *files = got < 0 ? NULL : CMSG_FIRSTHDR(&letter);
    REQUIRE(files != NULL && files->cmsg_type == SCM_RIGHTS, CUDA_ERROR_INVALID_VALUE);
    size_t count = (files->cmsg_len - CMSG_LEN(0)) / sizeof(int);
    memcpy(carried, CMSG_DATA(files), (count < 2 ? count : 2) * sizeof(int));
    if (got == (ssize_t)size && count == 2) {
        return CUDA_SUCCESS;
    }
    for (size_t i = 0; i < count && i < 2; i++) {
        close(carried[i]);
    }
    return CUDA_ERROR_INVALID_VALUE;
}

CUresult share_import(int descriptor, const struct share_address *address, void *message, size_t size,
                      struct share **out)
{
    int carried[2];
    TRY(look_into(descriptor, message, size, carried));
    /* Its record is held by the message itself; what keeps it for this process is a hold of its own. */
    *out = find(address);
    CUresult rc = CUDA_SUCCESS;
    if (*out != NULL) {
        (*out)->references++;
        close(carried[0]);
    } else {
        rc = join(address, carried[0], out);
    }
    close(carried[1]);
    return rc;
}

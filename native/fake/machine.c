/* machine.c: mapping of the hardware file. */
#define _GNU_SOURCE
#include "ledger.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

static bool valid(const uint8_t *base, off_t size)
{
    const struct fake_header *header = (const struct fake_header *)base;
    const struct fake_gpu *gpus = (const struct fake_gpu *)(base + FAKE_GPUS_OFFSET);
    if (__atomic_load_n(&header->magic, __ATOMIC_ACQUIRE) != FAKE_MAGIC ||
        header->layout_version != FAKE_LAYOUT_VERSION || header->gpu_count > FAKE_GPU_COUNT_MAX ||
        header->file_bytes != (uint64_t)size) {
        return false;
    }
    for (uint32_t i = 0; i < header->gpu_count; i++) {
        if (gpus[i].reserved_bytes > gpus[i].memory_bytes || memchr(gpus[i].name, 0, FAKE_NAME_BYTES) == NULL) {
            return false;
        }
    }
    return true;
}

static bool map_file(struct machine *machine, int fd)
{
    struct stat st;
    if (fstat(fd, &st) != 0 || !S_ISREG(st.st_mode) || st.st_size != (off_t)FAKE_FILE_BYTES) {
        return false;
    }
    void *base = mmap(NULL, FAKE_FILE_BYTES, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    if (base == MAP_FAILED) {
        return false;
    }
    if (!valid(base, st.st_size)) {
        munmap(base, FAKE_FILE_BYTES);
        return false;
    }
    machine->base = base;
    machine->device = st.st_dev;
    machine->inode = st.st_ino;
    return true;
}

enum machine_status machine_open(struct machine *machine)
{
    if (machine->base != NULL) {
        return MACHINE_OK;
    }
    const char *path = getenv("FRACGPU_FAKE_GPU");
    int fd = path != NULL ? open(path, O_RDWR | O_CLOEXEC) : -1;
    if (fd < 0) {
        return MACHINE_ABSENT;
    }
    machine->path = strdup(path);
    if (machine->path == NULL || !map_file(machine, fd)) {
        free(machine->path);
        machine->path = NULL;
        close(fd);
        return MACHINE_ABSENT;
    }
    machine->lock_fd = fd;
    machine->gpus = (struct fake_gpu *)(machine->base + FAKE_GPUS_OFFSET);
    machine->slots = (struct fake_slot *)(machine->base + FAKE_SLOTS_OFFSET);
    machine->shared = (struct fake_shared *)(machine->base + FAKE_SHARED_OFFSET);
    machine->gpu_count = (int)((struct fake_header *)machine->base)->gpu_count;
    return MACHINE_OK;
}

void machine_close(struct machine *machine)
{
    if (machine->base == NULL) {
        return;
    }
    munmap(machine->base, FAKE_FILE_BYTES);
    if (machine->own_mapping != NULL) {
        ledger_let_go(machine->own_mapping);
    }
    if (machine->lock_fd >= 0) {
        close(machine->lock_fd);
    }
    free(machine->path);
    *machine = (struct machine)MACHINE_INITIALISER;
}

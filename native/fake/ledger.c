/* ledger.c: who holds how much of which GPU. The kernel owns liveness and the lock, so nothing survives a kill. */
#define _GNU_SOURCE
#include "ledger.h"
#include "procfs.h"

#include <fcntl.h>
#include <sched.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

/* The lock is held for about a microsecond; only a holder that was stopped (SIGSTOP) keeps it this long. */
#define LOCK_PATIENCE_NS INT64_C(5000000000)
#define LOCK_SPINS 64

int ledger_lock(int fd, int command, short type, off_t offset)
{
    struct flock lock = { .l_type = type, .l_whence = SEEK_SET, .l_start = offset, .l_len = 1 };
    int rc = fcntl(fd, command, &lock);
    return command == F_OFD_GETLK && rc == 0 ? lock.l_type != F_UNLCK : rc;
}

static int64_t now_ns(void)
{
    struct timespec ts;
    clock_gettime(CLOCK_MONOTONIC, &ts);
    return (int64_t)ts.tv_sec * 1000000000 + ts.tv_nsec;
}

/* Programs that daemonise close every descriptor: make sure that ours is still ours. */
static bool have_lock_fd(struct machine *machine)
{
    struct stat st;
    int fd = machine->lock_fd;
    if (fd >= 0 && fstat(fd, &st) == 0 && st.st_dev == machine->device && st.st_ino == machine->inode) {
        return true;
    }
    fd = open(machine->path, O_RDWR | O_CLOEXEC);
    if (fd < 0 || fstat(fd, &st) != 0 || st.st_dev != machine->device || st.st_ino != machine->inode) {
        if (fd >= 0) {
            close(fd);
        }
        machine->lock_fd = -1;
        return false;
    }
    machine->lock_fd = fd;
    return true;
}

bool ledger_enter(struct machine *machine)
{
    pthread_mutex_lock(&machine->mutex);
    if (!have_lock_fd(machine)) {
        pthread_mutex_unlock(&machine->mutex);
        return false;
    }
    int64_t deadline = 0;
    for (int spins = 0; ledger_lock(machine->lock_fd, F_OFD_SETLK, F_WRLCK, 0) != 0; spins++) {
        if (spins < LOCK_SPINS) {
            sched_yield();
            continue;
        }
        int64_t now = now_ns();
        deadline = deadline != 0 ? deadline : now + LOCK_PATIENCE_NS;
        if (now > deadline) {
            pthread_mutex_unlock(&machine->mutex);
            return false;
        }
        nanosleep(&(struct timespec){ .tv_nsec = 50000 }, NULL);
    }
    return true;
}

void ledger_leave(struct machine *machine)
{
    ledger_lock(machine->lock_fd, F_OFD_SETLK, F_UNLCK, 0);
    pthread_mutex_unlock(&machine->mutex);
}

static off_t slot_offset(const struct machine *machine, const struct fake_slot *slot)
{
    return (off_t)(FAKE_SLOTS_OFFSET + (size_t)(slot - machine->slots) * FAKE_SLOT_BYTES);
}

bool ledger_slot_alive(struct machine *machine, const struct fake_slot *slot)
{
    if (__atomic_load_n(&slot->state, __ATOMIC_ACQUIRE) != FAKE_SLOT_LIVE) {
        return false;
    }
    return slot == machine->own ||
           ledger_lock(machine->lock_fd, F_OFD_GETLK, F_WRLCK, slot_offset(machine, slot)) == 1;
}

static uint64_t sum(struct machine *machine, int gpu)
{
    uint64_t total = 0;
    for (int i = 0; i < FAKE_SLOT_COUNT; i++) {
        struct fake_slot *slot = &machine->slots[i];
        uint64_t used = __atomic_load_n(&slot->used_bytes[gpu], __ATOMIC_RELAXED);
        if (used != 0 && ledger_slot_alive(machine, slot)) {
            total += used;
        }
    }
    return total + machine_shared_bytes(machine, gpu);
}

uint64_t machine_used(struct machine *machine, int gpu)
{
    pthread_mutex_lock(&machine->mutex);
    uint64_t used = have_lock_fd(machine) ? sum(machine, gpu) : 0;
    pthread_mutex_unlock(&machine->mutex);
    return used;
}

int machine_processes(struct machine *machine, int gpu, struct machine_process *out, int capacity)
{
    int count = 0;
    pthread_mutex_lock(&machine->mutex);
    bool ready = have_lock_fd(machine);
    for (int i = 0; ready && i < FAKE_SLOT_COUNT; i++) {
        struct fake_slot *slot = &machine->slots[i];
        uint32_t compute = __atomic_load_n(&slot->context_mask, __ATOMIC_RELAXED) >> gpu & 1;
        uint32_t graphics = __atomic_load_n(&slot->graphics_mask, __ATOMIC_RELAXED) >> gpu & 1;
        uint32_t mps = __atomic_load_n(&slot->mps_mask, __ATOMIC_RELAXED) >> gpu & 1;
        if ((compute | graphics | mps) == 0 || !ledger_slot_alive(machine, slot)) {
            continue;
        }
        if (count < capacity) {
            out[count] = (struct machine_process){
                .pid = slot->pid,
                .start_time_ticks = slot->start_time_ticks,
                .pid_namespace_inode = slot->pid_namespace_inode,
                .used_bytes = __atomic_load_n(&slot->used_bytes[gpu], __ATOMIC_RELAXED) +
                              machine_shared_bytes_of(machine, gpu, (uint32_t)i),
                .compute = compute != 0,
                .graphics = graphics != 0,
                .mps = mps != 0,
                .sm_percent = __atomic_load_n(&slot->sm_percent[gpu], __ATOMIC_RELAXED),
                .memory_percent = __atomic_load_n(&slot->memory_percent[gpu], __ATOMIC_RELAXED),
            };
        }
        count++;
    }
    pthread_mutex_unlock(&machine->mutex);
    return count;
}

void *ledger_hold(struct machine *machine, short type, off_t offset)
{
    off_t page = (off_t)sysconf(_SC_PAGESIZE);
    int fd = open(machine->path, O_RDWR | O_CLOEXEC);
    if (fd < 0) {
        return NULL;
    }
    void *mapping = MAP_FAILED;
    if (ledger_lock(fd, F_OFD_SETLK, type, offset) == 0) {
        mapping = mmap(NULL, (size_t)page, PROT_READ, MAP_SHARED, fd, offset / page * page);
    }
    close(fd);
    if (mapping == MAP_FAILED) {
        return NULL;
    }
    madvise(mapping, (size_t)page, MADV_DONTFORK);
    return mapping;
}

void ledger_let_go(void *mapping)
{
    munmap(mapping, (size_t)sysconf(_SC_PAGESIZE));
}

static enum machine_status claim_slot(struct machine *machine)
{
    for (int i = 0; i < FAKE_SLOT_COUNT; i++) {
        struct fake_slot *slot = &machine->slots[i];
        if (ledger_slot_alive(machine, slot)) {
            continue;
        }
        memset(slot, 0, sizeof *slot);
        machine->own_mapping = ledger_hold(machine, F_WRLCK, slot_offset(machine, slot));
        if (machine->own_mapping == NULL) {
            return MACHINE_BROKEN;
        }
        machine_forget_slot(machine, (uint32_t)i);
        slot->pid = (int32_t)getpid();
        slot->start_time_ticks = procfs_start_time("self");
        slot->pid_namespace_inode = procfs_pid_namespace("self");
        __atomic_store_n(&slot->state, FAKE_SLOT_LIVE, __ATOMIC_RELEASE);
        machine->own = slot;
        return MACHINE_OK;
    }
    return MACHINE_NO_SLOT;
}

enum machine_status ledger_have_slot(struct machine *machine)
{
    return machine->own != NULL ? MACHINE_OK : claim_slot(machine);
}

enum machine_status machine_charge(struct machine *machine, int gpu, uint64_t bytes)
{
    if (!ledger_enter(machine)) {
        return MACHINE_BROKEN;
    }
    struct fake_gpu *hw = &machine->gpus[gpu];
    enum machine_status status = ledger_have_slot(machine);
    if (status == MACHINE_OK) {
        uint64_t used = sum(machine, gpu);
        uint64_t room = hw->memory_bytes - hw->reserved_bytes;
        if (used > room || bytes > room - used) {
            status = MACHINE_FULL;
        } else {
            uint64_t own = machine->own->used_bytes[gpu];
            __atomic_store_n(&machine->own->used_bytes[gpu], own + bytes, __ATOMIC_RELAXED);
            if (used + bytes > hw->peak_used_bytes) {
                __atomic_store_n(&hw->peak_used_bytes, used + bytes, __ATOMIC_RELAXED);
            }
        }
    }
    ledger_leave(machine);
    return status;
}

void machine_discharge(struct machine *machine, int gpu, uint64_t bytes)
{
    /* A single writer per slot: giving back needs no lock, only our own threads apart. */
    pthread_mutex_lock(&machine->mutex);
    if (machine->own != NULL) {
        uint64_t own = machine->own->used_bytes[gpu];
        __atomic_store_n(&machine->own->used_bytes[gpu], own >= bytes ? own - bytes : 0, __ATOMIC_RELAXED);
    }
    pthread_mutex_unlock(&machine->mutex);
}

enum machine_status machine_set_context(struct machine *machine, int gpu, bool present)
{
    if (!ledger_enter(machine)) {
        return MACHINE_BROKEN;
    }
    enum machine_status status = ledger_have_slot(machine);
    if (status == MACHINE_OK) {
        uint32_t bit = UINT32_C(1) << gpu;
        uint32_t mask = machine->own->context_mask;
        __atomic_store_n(&machine->own->context_mask, present ? mask | bit : mask & ~bit, __ATOMIC_RELAXED);
    }
    ledger_leave(machine);
    return status;
}

void machine_before_fork(struct machine *machine)
{
    pthread_mutex_lock(&machine->mutex);
}

void machine_after_fork_parent(struct machine *machine)
{
    pthread_mutex_unlock(&machine->mutex);
}

void machine_after_fork_child(struct machine *machine)
{
    /* An inherited descriptor shares the parent's OFD locks: were it kept, a parent killed inside the lock
     * would leave it held for as long as this child lives. */
    if (machine->lock_fd >= 0) {
        close(machine->lock_fd);
    }
    machine->lock_fd = -1;
    machine->own = NULL;
    machine->own_mapping = NULL;
    pthread_mutex_unlock(&machine->mutex);
}

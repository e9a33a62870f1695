/* machine.h: access to the modelled hardware, shared by the fake libcuda and the fake libnvidia-ml. */
#ifndef FAKE_MACHINE_H
#define FAKE_MACHINE_H

#include <pthread.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#include "machine_layout.h"

enum machine_status {
    MACHINE_OK = 0,
    MACHINE_ABSENT,                       /* FRACGPU_FAKE_GPU unset, or no valid machine there */
    MACHINE_FULL,                         /* the GPU has not that many bytes free */
    MACHINE_NO_SLOT,                      /* FAKE_SLOT_COUNT processes already hold memory */
    MACHINE_BROKEN                        /* the file or its lock cannot be had any more */
};

struct machine {
    uint8_t *base;                        /* the whole file, MAP_SHARED; NULL while closed */
    struct fake_gpu *gpus;
    struct fake_slot *slots;
    struct fake_shared *shared;
    int gpu_count;
    char *path;
    dev_t device;
    ino_t inode;
    int lock_fd;                          /* -1: opened when next needed */
    struct fake_slot *own;                /* NULL until the first charge */
    void *own_mapping;                    /* the mapping whose file description owns the slot's lock */
    pthread_mutex_t mutex;                /* OFD locks do not exclude the threads of one process */
};

#define MACHINE_INITIALISER { .lock_fd = -1, .mutex = PTHREAD_MUTEX_INITIALIZER }

/* Map the machine named by FRACGPU_FAKE_GPU. Idempotent. */
enum machine_status machine_open(struct machine *machine);
void machine_close(struct machine *machine);

/* 0, or the errno with which opening the control node fails: FRACGPU_FAKE_DEVICES is set, and the driver is out of
 * this process's reach. */
int machine_control_error(void);
/* Indices of the GPUs, in file order, whose minor numbers FRACGPU_FAKE_VISIBLE lists and whose nodes in the directory
 * FRACGPU_FAKE_DEVICES this process may use. A variable that is not set restricts nothing. */
int machine_visible(const struct machine *machine, int indices[FAKE_GPU_COUNT_MAX]);

/* Add to what this process holds on a GPU; exact under concurrency: refused only if it does not fit. */
enum machine_status machine_charge(struct machine *machine, int gpu, uint64_t bytes);
void machine_discharge(struct machine *machine, int gpu, uint64_t bytes);
/* Say that this process has (or no longer has) a context on a GPU: what NVML lists processes by. */
enum machine_status machine_set_context(struct machine *machine, int gpu, bool present);

/* Sum over living processes. Does not wait for anybody. */
uint64_t machine_used(struct machine *machine, int gpu);

/* The living processes that have a context of any kind on a GPU; returns how many there are, fills at most `capacity`. */
struct machine_process {
    int32_t pid;
    uint64_t start_time_ticks;
    uint64_t pid_namespace_inode;
    uint64_t used_bytes;
    bool compute, graphics, mps;
    unsigned sm_percent, memory_percent;
};
int machine_processes(struct machine *machine, int gpu, struct machine_process *out, int capacity);

/* ---- machine_shared.c: memory that several processes hold, counted once ---- */
/* What keeps a record alive: the mapping's file description has a lock on it. */
struct machine_hold {
    uint32_t index;
    uint64_t serial;
    void *mapping;
};
/* Turn `bytes` that this process has been charged with into shared memory that it holds. */
enum machine_status machine_share(struct machine *machine, int gpu, uint64_t bytes, struct machine_hold *hold);
/* Hold what another process shares; MACHINE_ABSENT when that memory is gone. */
enum machine_status machine_join(struct machine *machine, uint32_t index, uint64_t serial, struct machine_hold *hold);
void machine_leave(struct machine *machine, struct machine_hold *hold);
/* A descriptor that keeps the memory of `hold` alive wherever it is, -1 when there is none. */
int machine_hold_descriptor(struct machine *machine, const struct machine_hold *hold);
/* For sums under way: what living shared memory of a GPU adds up to, and what of it is shown as a slot's. */
uint64_t machine_shared_bytes(struct machine *machine, int gpu);
uint64_t machine_shared_bytes_of(struct machine *machine, int gpu, uint32_t slot);
/* A slot has a new owner, who holds nothing. */
void machine_forget_slot(struct machine *machine, uint32_t slot);

/* Around fork(): no fork while the lock is held; the child forgets the parent's slot and descriptor. */
void machine_before_fork(struct machine *machine);
void machine_after_fork_parent(struct machine *machine);
void machine_after_fork_child(struct machine *machine);

#endif /* FAKE_MACHINE_H */

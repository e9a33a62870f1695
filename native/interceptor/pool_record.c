/*
 * pool_record.c: see pool_record.h.
 *
 * The charge of a pool may lie with several allocations, so it can not be swapped in one atomic exchange. Instead one
 * thread at a time is in charge of the pool: who only wants it settled and finds another thread there leaves a request,
 * and that thread looks again until no request is left. Only the thread in charge lowers a charge or asks the driver
 * about the pool, so a pool is never asked about while it is being destroyed.
 */
#include "pool_record.h"

#include "../limiter/amount.h"
#include "../limiter/pause.h"
#include "graph_memory.h"
#include "real.h"

/* What the driver rounds an allocation in a pool up to. */
#define POOL_ALIGNMENT 512u

enum {
    SETTLE_ROUNDS = 64,                /* then the rest is settled later */
    CREATE_TRIES = 200,
    ENTER_TRIES = 200,
    WAIT_US = 50
};

struct fg_pool *fg_pool_find(struct fg_process *process, CUmemoryPool pool)
{
    uint32_t used = __atomic_load_n(&process->pools_used, __ATOMIC_ACQUIRE);
    /* What a record holds instead of a handle is no pool's handle. */
    if (pool == NULL || (uint64_t)(uintptr_t)pool == FG_POOL_GONE)
        return NULL;
    for (uint32_t index = 0; index < used; index++) {
        if (__atomic_load_n(&process->pools[index].handle, __ATOMIC_ACQUIRE) == (uint64_t)(uintptr_t)pool)
            return &process->pools[index];
    }
    return NULL;
}

static struct fg_pool *create(struct fg_process *process, CUmemoryPool pool, struct fg_group *group)
{
    for (uint32_t index = 0; index < FG_POOLS_MAX; index++) {
        struct fg_pool *record = &process->pools[index];
        if (__atomic_load_n(&record->handle, __ATOMIC_ACQUIRE) != 0)
            continue;
        record->group = group;
        __atomic_store_n(&record->handle, (uint64_t)(uintptr_t)pool, __ATOMIC_RELEASE);
        if (index >= process->pools_used)
            __atomic_store_n(&process->pools_used, index + 1, __ATOMIC_RELEASE);
        return record;
    }
    return NULL;
}

struct fg_pool *fg_pool_record(struct fg_process *process, CUmemoryPool pool, struct fg_group *group)
{
    struct fg_pool *record = fg_pool_find(process, pool);
    /* Two records of one pool would charge it twice, so pools are added one at a time. That takes some nanoseconds; a
     * thread that does not get its turn gets no record. */
    for (int attempt = 0; record == NULL && attempt < CREATE_TRIES; attempt++) {
        uint32_t idle = 0;
        if (!__atomic_compare_exchange_n(&process->pools_adding, &idle, 1, 0, __ATOMIC_ACQUIRE, __ATOMIC_RELAXED)) {
            fg_sleep(WAIT_US);
            record = fg_pool_find(process, pool);
            continue;
        }
        record = fg_pool_find(process, pool);
        if (record == NULL)
            record = create(process, pool, group);
        __atomic_store_n(&process->pools_adding, 0, __ATOMIC_RELEASE);
        break;
    }
    return record;
}

bool fg_pool_attribute(CUmemoryPool pool, int attribute, uint64_t *value)
{
    /* What stands for the memory of graphs is no pool that a driver knows. */
    if (fg_graph_memory_handle((uint64_t)(uintptr_t)pool))
        return attribute == CU_MEMPOOL_ATTR_RESERVED_MEM_CURRENT &&
               fg_graph_memory_reserved((uint64_t)(uintptr_t)pool, value);
    return FG_CALL(cuMemPoolGetAttribute, pool, attribute, value) == CUDA_SUCCESS;
}

void fg_pool_flying(struct fg_pool *record, uint64_t growth, const struct fg_charge *charge)
{
    __atomic_fetch_add(&record->in_flight, growth, __ATOMIC_SEQ_CST);
    __atomic_fetch_add(&record->charged[charge->member], charge->bytes, __ATOMIC_SEQ_CST);
}

void fg_pool_landed(struct fg_pool *record, uint64_t growth)
{
    __atomic_fetch_sub(&record->in_flight, growth, __ATOMIC_SEQ_CST);
}

/* The headroom is a multiple of POOL_ALIGNMENT; the bits below count every change and every attempt, so that a thread
 * can tell whether another one allocated while it did. */
#define COUNT_MASK ((uint64_t)POOL_ALIGNMENT - 1)
#define NO_TICKET  UINT64_MAX

static uint64_t headroom_word(uint64_t bytes, uint64_t previous)
{
    return (bytes & ~COUNT_MASK) | ((previous + 1) & COUNT_MASK);
}

static uint64_t clear_headroom(struct fg_pool *record)
{
    uint64_t word = __atomic_load_n(&record->headroom, __ATOMIC_SEQ_CST);
    uint64_t cleared = headroom_word(0, word);
    /* Another thread's change in between is an attempt of its own, and clears or lowers it as well. */
    if (__atomic_compare_exchange_n(&record->headroom, &word, cleared, 0, __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST))
        return cleared;
    __atomic_store_n(&record->headroom, headroom_word(0, word), __ATOMIC_SEQ_CST);
    return NO_TICKET;
}

bool fg_pool_begin(struct fg_pool *record, uint64_t bytes, uint64_t growth, uint64_t *ticket)
{
    *ticket = NO_TICKET;
    __atomic_fetch_add(&record->calls, 1, __ATOMIC_SEQ_CST);
    /* Before the headroom is taken: the pool may have given it up, and then grows after all. A settlement that finds
     * that out clears the headroom first and then looks what is in flight, so it leaves the charge of this growth. */
    __atomic_fetch_add(&record->in_flight, growth, __ATOMIC_SEQ_CST);
    uint64_t wanted = fg_round_up(bytes, POOL_ALIGNMENT);
    uint64_t word = __atomic_load_n(&record->headroom, __ATOMIC_SEQ_CST);
    uint64_t left = (word & ~COUNT_MASK) - wanted;
    if (wanted <= (word & ~COUNT_MASK) &&
        __atomic_compare_exchange_n(&record->headroom, &word, headroom_word(left, word), 0, __ATOMIC_SEQ_CST,
                                    __ATOMIC_SEQ_CST))
        return true;
    fg_pool_landed(record, growth);
    /* What does not fit may still be put there, together with freed memory beside it. */
    uint64_t cleared = clear_headroom(record);
    if (__atomic_load_n(&record->calls, __ATOMIC_SEQ_CST) == 1)
        *ticket = cleared;
    return false;
}

void fg_pool_grew(struct fg_pool *record, uint64_t ticket, uint64_t before, uint64_t after, uint64_t bytes)
{
    uint64_t left = fg_subtract(fg_subtract(after, before), fg_round_up(bytes, POOL_ALIGNMENT));
    if (ticket != NO_TICKET && left != 0)
        __atomic_compare_exchange_n(&record->headroom, &ticket, headroom_word(left, ticket), 0, __ATOMIC_SEQ_CST,
                                    __ATOMIC_RELAXED);
}

void fg_pool_end(struct fg_pool *record)
{
    __atomic_fetch_sub(&record->calls, 1, __ATOMIC_SEQ_CST);
}

static uint64_t total_charge(const struct fg_process *process, const struct fg_pool *record)
{
    uint64_t total = 0;
    for (uint32_t member = 0; member < process->member_count; member++)
        total += __atomic_load_n(&record->charged[member], __ATOMIC_SEQ_CST);
    return total;
}

static void take_off(struct fg_process *process, struct fg_pool *record, uint64_t bytes)
{
    /* Last in, first out: the first allocation is filled first and emptied last. */
    for (uint32_t member = process->member_count; member-- > 0 && bytes > 0;) {
        uint64_t charged = __atomic_load_n(&record->charged[member], __ATOMIC_SEQ_CST);
        uint64_t part = fg_min(charged, bytes);
        /* Allocations add to it at the same time. A failed exchange means that one did, so this ends. */
        while (part != 0 && !__atomic_compare_exchange_n(&record->charged[member], &charged, charged - part, 0,
                                                         __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST))
            part = fg_min(charged, bytes);
        if (part == 0)
            continue;
        fg_ledger_discharge(&process->members[member].ledger, part, FG_POOL);
        bytes -= part;
    }
}

/* The last pointer of a pool that is gone has been freed. */
static void forget(struct fg_process *process, struct fg_pool *record)
{
    take_off(process, record, UINT64_MAX);
    clear_headroom(record);
    __atomic_store_n(&record->reserved_seen, 0, __ATOMIC_RELAXED);
    __atomic_store_n(&record->handle, 0, __ATOMIC_RELEASE);
}

struct reading {
    uint64_t charged, in_flight, reserved;
};

/* False when the driver does not say, or when the pool shrank since the last reading. */
static bool look(struct fg_process *process, struct fg_pool *record, CUmemoryPool pool, struct reading *reading)
{
    /* In this order. What another thread starts in between then counts as in flight but not yet as charged, and
     * nothing of it is released. */
    reading->charged = total_charge(process, record);
    reading->in_flight = __atomic_load_n(&record->in_flight, __ATOMIC_SEQ_CST);
    if (!fg_pool_attribute(pool, CU_MEMPOOL_ATTR_RESERVED_MEM_CURRENT, &reading->reserved)) {
        /* It must be asked again, or the charge would stay until the pool is next used. */
        __atomic_store_n(&process->pools_hold, 1, __ATOMIC_SEQ_CST);
        return false;
    }
    reading->reserved = fg_min(reading->reserved, FG_AMOUNT_MAX);
    if (reading->reserved + reading->in_flight > 0)
        __atomic_store_n(&process->pools_hold, 1, __ATOMIC_SEQ_CST);
    if (reading->reserved >= __atomic_exchange_n(&record->reserved_seen, reading->reserved, __ATOMIC_SEQ_CST))
        return true;
    /* It may have given up the block that the headroom is in. */
    clear_headroom(record);
    fg_graph_memory_shrank(process, record);
    return false;
}

static void settle_once(struct fg_process *process, struct fg_pool *record)
{
    uint64_t handle = __atomic_load_n(&record->handle, __ATOMIC_SEQ_CST);
    struct reading reading;
    if (handle == FG_POOL_GONE && __atomic_load_n(&record->pointers, __ATOMIC_SEQ_CST) == 0)
        forget(process, record);
    if (handle == FG_POOL_GONE || handle == 0 || record->group == NULL)
        return;
    CUmemoryPool pool = (CUmemoryPool)(uintptr_t)handle;
    if (!look(process, record, pool, &reading) && !look(process, record, pool, &reading))
        return;
    uint64_t reserved = reading.reserved;
    uint64_t in_flight = reading.in_flight;
    uint64_t charged = reading.charged;
    if (charged > reserved + in_flight)
        take_off(process, record, charged - reserved - in_flight);
    /* The pool grew by more than all reservations together. The memory is there: it is charged, and what comes next
     * pays for it. */
    charged = total_charge(process, record);
    if (charged < reserved) {
        struct fg_member *home = record->group->members[0];
        __atomic_fetch_add(&record->charged[home->index], reserved - charged, __ATOMIC_SEQ_CST);
        fg_ledger_charge(&home->ledger, reserved - charged, FG_POOL);
    }
}

bool fg_pool_enter(struct fg_pool *record)
{
    for (int attempt = 0; attempt < ENTER_TRIES; attempt++) {
        uint32_t idle = 0;
        if (__atomic_compare_exchange_n(&record->requests, &idle, 1, 0, __ATOMIC_SEQ_CST, __ATOMIC_RELAXED))
            return true;
        fg_sleep(WAIT_US);
    }
    return false;
}

void fg_pool_leave(struct fg_process *process, struct fg_pool *record)
{
    for (int round = 0; round < SETTLE_ROUNDS; round++) {
        uint32_t requests = __atomic_load_n(&record->requests, __ATOMIC_SEQ_CST);
        settle_once(process, record);
        if (__atomic_compare_exchange_n(&record->requests, &requests, 0, 0, __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST))
            return;
    }
    __atomic_store_n(&process->pools_hold, 1, __ATOMIC_SEQ_CST);
    __atomic_store_n(&record->requests, 0, __ATOMIC_SEQ_CST);
}

void fg_pool_settle(struct fg_process *process, struct fg_pool *record)
{
    if (__atomic_fetch_add(&record->requests, 1, __ATOMIC_SEQ_CST) == 0)
        fg_pool_leave(process, record);
}

void fg_pool_gone(struct fg_process *process, struct fg_pool *record, uint64_t remaining)
{
    uint64_t charged = total_charge(process, record);
    if (charged > remaining)
        take_off(process, record, charged - remaining);
}

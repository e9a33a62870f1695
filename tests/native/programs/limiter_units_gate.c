/* Limits that change under threads, and threads that wait at the gate. */
#include <linux/futex.h>
#include <pthread.h>
#include <sys/mman.h>
#include <sys/syscall.h>

#include "gate.h"
#include "limiter_units.h"

enum { READERS = 4, CHANGES = 2000, UNIT = 10 };

static struct fg_member member;
static struct fg_group one = {.count = 1, .members = {&member}};
static uint32_t finished;

static void set(struct fracgpu_config *config, uint64_t memory_bytes, uint32_t flags)
{
    uint64_t generation = config->generation;
    __atomic_store_n(&config->generation, generation + 1, __ATOMIC_SEQ_CST);
    __atomic_store_n(&config->memory_limit_bytes, memory_bytes, __ATOMIC_SEQ_CST);
    __atomic_store_n(&config->flags, flags, __ATOMIC_SEQ_CST);
    __atomic_store_n(&config->generation, generation + 2, __ATOMIC_SEQ_CST);
    syscall(SYS_futex, &config->generation, FUTEX_WAKE, INT32_MAX, NULL, NULL, 0);
}

/* Each limit belongs to one generation, and to one flag. */
static void *read_limits(void *page)
{
    while (__atomic_load_n(&finished, __ATOMIC_ACQUIRE) == 0) {
        struct fg_limits limits = fg_page_limits(page);
        CHECK(limits.memory_bytes == limits.generation * UNIT);
        CHECK(limits.suspended == (limits.generation % 4 == 0));
    }
    return NULL;
}

void test_page_threads(void)
{
    pthread_t readers[READERS];
    struct fracgpu_config config = new_config(2 * UNIT);
    CHECK(fg_page_adopt(&member.page, &config) == FG_OK);
    finished = 0;
    for (int index = 0; index < READERS; index++)
        CHECK(pthread_create(&readers[index], NULL, read_limits, &member.page) == 0);
    for (int change = 0; change < CHANGES; change++) {
        uint64_t next = config.generation + 2;
        set(&config, next * UNIT, next % 4 == 0 ? FRACGPU_FLAG_SUSPEND : 0);
    }
    __atomic_store_n(&finished, 1, __ATOMIC_RELEASE);
    for (int index = 0; index < READERS; index++)
        pthread_join(readers[index], NULL);
}

static void *pass(void *argument)
{
    (void)argument;
    return (void *)(uintptr_t)fg_gate_pass(&one);
}

static void expect_of_waiters(struct fracgpu_config *config, enum fg_gate expected,
                              void (*release)(struct fracgpu_config *))
{
    pthread_t waiters[READERS];
    void *answer;
    set(config, 1000, FRACGPU_FLAG_SUSPEND);
    for (int index = 0; index < READERS; index++)
        CHECK(pthread_create(&waiters[index], NULL, pass, NULL) == 0);
    usleep(50000);
    release(config);
    for (int index = 0; index < READERS; index++)
        CHECK(pthread_join(waiters[index], &answer) == 0 && (uintptr_t)answer == (uintptr_t)expected);
}

static void resume(struct fracgpu_config *config)
{
    set(config, 1000, 0);
}

static void take_away(struct fracgpu_config *config)
{
    (void)config;
    CHECK(unlink(path_of("config")) == 0);
}

static void put_another(struct fracgpu_config *config)
{
    take_away(config);
    write_file("config", config, sizeof(*config), 4096);
}

void test_gate(void)
{
    struct fracgpu_config first = new_config(1000), *config;
    write_file("config", &first, sizeof(first), 4096);
    int descriptor = open(path_of("config"), O_RDWR);
    CHECK(fg_page_map(&member.page, descriptor) == FG_OK);
    strcpy(member.page.path, path_of("config"));
    config = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, descriptor, 0);
    CHECK(config != MAP_FAILED && fg_gate_pass(&one) == FG_GATE_OPEN);
    CHECK(member.page.open_generation == 2);
    expect_of_waiters(config, FG_GATE_OPEN, resume);
    /* A page that is taken away holds nobody up but those whom it would keep waiting. */
    expect_of_waiters(config, FG_GATE_GONE, put_another);
    expect_of_waiters(config, FG_GATE_GONE, take_away);
    resume(config);
    CHECK(fg_gate_pass(&one) == FG_GATE_OPEN);
    /* A change that was cut off: the suspension of before holds, and so does its absence. */
    config->generation++;
    CHECK(fg_gate_pass(&one) == FG_GATE_OPEN);
    close(descriptor);
    fg_page_close(&member.page);
}

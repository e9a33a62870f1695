/*
 * suspended THREADS: what allocates waits while the host has the allocation suspended, and nothing else does.
 *
 * It prints `ready` and waits for a line while the host suspends. Then THREADS threads allocate, each in another way,
 * while the main thread frees, looks, forks, captures, and sends signals. It prints `held` when all of them still wait,
 * waits for another line, and prints `passed CODE NANOSECONDS` for each thread, with the CLOCK_MONOTONIC time of its
 * return.
 */
#include <pthread.h>
#include <signal.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "driver_api.h"

enum { THREADS_MAX = 16, SIGNALS = 200 };

struct worker {
    pthread_t thread;
    int way;
    int code;
    uint64_t returned_ns;
};

static struct worker workers[THREADS_MAX];
static volatile sig_atomic_t signals_seen;

static uint64_t now_ns(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
}

static void wait_for_line(const char *said)
{
    char byte;
    puts(said);
    fflush(stdout);
    while (read(0, &byte, 1) == 1 && byte != '\n')
        continue;
}

static void on_signal(int number)
{
    (void)number;
    signals_seen++;
}

static void *allocate(void *argument)
{
    struct worker *worker = argument;
    struct allocation_prop prop = {.type = 1, .location = {.type = 1, .id = 0}};
    uint64_t result;
    size_t pitch;
    use_device(0);
    switch (worker->way % 5) {
    case 0: worker->code = cuMemAlloc_v2(&result, MIB); break;
    case 1: worker->code = cuMemAllocAsync(&result, MIB, NULL); break;
    case 2: worker->code = cuMemCreate(&result, 2 * MIB, &prop, 0); break;
    case 3: worker->code = cuMemAllocManaged(&result, MIB, 1); break;
    default: worker->code = cuMemAllocPitch_v2(&result, &pitch, 1000, 1000, 4); break;
    }
    __atomic_store_n(&worker->returned_ns, now_ns(), __ATOMIC_SEQ_CST);
    return NULL;
}

static void look_in_a_child(void)
{
    int status;
    uint64_t address;
    size_t free_bytes, total;
    pid_t child = fork();
    CHECK(child >= 0);
    if (child == 0) {
        /* CUDA is of no use in a child of a process that used it, but it answers: with the driver's error. */
        alarm(10);
        cuDeviceTotalMem_v2(&total, 0);
        _exit(cuMemAlloc_v2(&address, MIB) != 0 ? 0 : 1);
    }
    CHECK(waitpid(child, &status, 0) == child && status == 0);
    CHECK(cuMemGetInfo_v2(&free_bytes, &total) == 0 && total == 64 * MIB);
}

/* A captured allocation is a node of a graph: nothing is allocated now, so nothing waits. */
static void allocate_in_a_capture(handle_t stream)
{
    uint64_t address;
    handle_t graph = NULL;
    CHECK(cuStreamBeginCapture_v2(stream, 2) == 0);
    CHECK(cuMemAllocAsync(&address, MIB, stream) == 0);
    CHECK(cuStreamEndCapture(stream, &graph) == 0 && graph != NULL);
}

int main(int count, char **arguments)
{
    handle_t stream;
    int threads = count > 1 ? atoi(arguments[1]) : 1;
    uint64_t kept, waiting_since;
    struct sigaction action = {.sa_handler = on_signal};
    CHECK(threads <= THREADS_MAX && sigaction(SIGUSR1, &action, NULL) == 0);
    load_driver();
    CHECK(cuInit(0) == 0);
    use_device(0);
    CHECK(cuMemAlloc_v2(&kept, 4 * MIB) == 0 && cuStreamCreate(&stream, 0) == 0);
    wait_for_line("ready");
    for (int index = 0; index < threads; index++) {
        workers[index].way = index;
        CHECK(pthread_create(&workers[index].thread, NULL, allocate, &workers[index]) == 0);
    }
    waiting_since = now_ns();
    for (int round = 0; round < SIGNALS; round++) {
        pthread_kill(workers[round % threads].thread, SIGUSR1);
        usleep(500);
    }
    look_in_a_child();
    allocate_in_a_capture(stream);
    CHECK(cuMemFree_v2(kept) == 0);
    /* Longer than a slice of the wait, so that it has looked by itself at least once. */
    while (now_ns() - waiting_since < 700000000u)
        usleep(10000);
    for (int index = 0; index < threads; index++)
        CHECK(__atomic_load_n(&workers[index].returned_ns, __ATOMIC_SEQ_CST) == 0);
    CHECK(signals_seen > 0);
    wait_for_line("held");
    for (int index = 0; index < threads; index++) {
        CHECK(pthread_join(workers[index].thread, NULL) == 0);
        printf("passed %d %llu\n", workers[index].code, (unsigned long long)workers[index].returned_ns);
    }
    return 0;
}

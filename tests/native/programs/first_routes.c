/*
 * first_routes SYMBOL...: many threads ask cuGetProcAddress at once, before anybody has; half of the rounds in a child
 * that is forked while the threads of its parent are at it. Each answer must be the shim's own. Exit 0: they were.
 */
#include <pthread.h>
#include <sys/wait.h>
#include <unistd.h>

#include "driver_api.h"

enum { THREADS = 8 };

static char **symbols;
static int symbol_count;
static pthread_barrier_t barrier;

static void ask_all(void)
{
    for (int index = 0; index < symbol_count; index++) {
        void *answer = NULL;
        CHECK(cuGetProcAddress(symbols[index], &answer, 11080, 0) == 0);
        CHECK(answer == dlsym(driver_library, symbols[index]));
    }
}

static void *asker(void *unused)
{
    pthread_barrier_wait(&barrier);
    ask_all();
    return unused;
}

static int ask_in_threads(bool with_fork)
{
    pthread_t threads[THREADS];
    int status = 0;
    load_driver();
    CHECK(pthread_barrier_init(&barrier, NULL, THREADS + 1) == 0);
    for (int index = 0; index < THREADS; index++)
        CHECK(pthread_create(&threads[index], NULL, asker, NULL) == 0);
    pthread_barrier_wait(&barrier);
    if (with_fork) {
        pid_t child = fork();
        if (child == 0) {
            ask_all();
            _exit(0);
        }
        CHECK(waitpid(child, &status, 0) == child);
    }
    for (int index = 0; index < THREADS; index++)
        CHECK(pthread_join(threads[index], NULL) == 0);
    return status;
}

int main(int count, char **arguments)
{
    CHECK(count > 1);
    symbols = arguments + 1;
    symbol_count = count - 1;
    for (int round = 0; round < 200; round++) {
        int status;
        pid_t child = fork();
        if (child == 0)
            _exit(ask_in_threads(round % 2 == 1) != 0);
        CHECK(waitpid(child, &status, 0) == child && status == 0);
    }
    return 0;
}

/*
 * starts ROUNDS PROGRAM...: microseconds to start a program and wait for its end, the median of so many times.
 */
#include <spawn.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

static double now_us(void)
{
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return (double)time.tv_sec * 1e6 + (double)time.tv_nsec / 1e3;
}

static int ascending(const void *one, const void *other)
{
    double difference = *(const double *)one - *(const double *)other;
    return difference < 0 ? -1 : difference > 0;
}

int main(int count, char **arguments)
{
    int rounds = count > 2 ? atoi(arguments[1]) : 0;
    double *times = rounds > 0 ? calloc((size_t)rounds, sizeof(double)) : NULL;
    if (times == NULL)
        return 2;
    for (int round = 0; round < rounds; round++) {
        pid_t started;
        int status;
        double began = now_us();
        if (posix_spawn(&started, arguments[2], NULL, NULL, arguments + 2, environ) != 0)
            return 1;
        if (waitpid(started, &status, 0) != started || status != 0)
            return 1;
        times[round] = now_us() - began;
    }
    qsort(times, (size_t)rounds, sizeof(double), ascending);
    printf("%.1f\n", times[rounds / 2]);
    return 0;
}

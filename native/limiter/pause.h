/*
 * pause.h: what a thread does between two looks at something that another thread is about to change.
 */
#ifndef FRACGPU_LIMITER_PAUSE_H
#define FRACGPU_LIMITER_PAUSE_H

#include <stdint.h>
#include <time.h>

static inline void fg_pause(void)
{
#if defined(__x86_64__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    __asm__ volatile("yield");
#endif
}

/* Sleep for about `microseconds`, less if a signal arrives. */
static inline void fg_sleep(unsigned microseconds)
{
    struct timespec duration = {.tv_sec = 0, .tv_nsec = (long)microseconds * 1000};
    nanosleep(&duration, NULL);
}

static inline uint64_t fg_clock_ns(clockid_t clock)
{
    struct timespec now;
    clock_gettime(clock, &now);
    return (uint64_t)now.tv_sec * UINT64_C(1000000000) + (uint64_t)now.tv_nsec;
}

#endif

/*
 * amount.h: arithmetic on bytes that can neither wrap nor be made to wrap.
 *
 * Every amount that enters a sum is first cut to FG_AMOUNT_MAX, which is far above any GPU and far enough below
 * 2^64 for all slots of a file to be added up.
 */
#ifndef FRACGPU_LIMITER_AMOUNT_H
#define FRACGPU_LIMITER_AMOUNT_H

#include <stdint.h>

#define FG_AMOUNT_MAX (UINT64_C(1) << 48)
#define FG_SLOTS_MAX  4096u

static inline uint64_t fg_min(uint64_t a, uint64_t b)
{
    return a < b ? a : b;
}

/* What a counter in shared memory stands for. A thread that settles a pool may take away what another thread is
 * about to add, so a counter can be below zero for a moment: that counts as nothing. */
static inline uint64_t fg_amount(uint64_t counter)
{
    return (int64_t)counter < 0 ? 0 : fg_min(counter, FG_AMOUNT_MAX);
}

static inline uint64_t fg_subtract(uint64_t a, uint64_t b)
{
    return a > b ? a - b : 0;
}

static inline uint64_t fg_add(uint64_t a, uint64_t b)
{
    uint64_t sum;
    return __builtin_add_overflow(a, b, &sum) ? UINT64_MAX : sum;
}

static inline uint64_t fg_multiply(uint64_t a, uint64_t b)
{
    uint64_t product;
    return __builtin_mul_overflow(a, b, &product) ? UINT64_MAX : product;
}

/* `unit` is a power of two. */
static inline uint64_t fg_round_up(uint64_t bytes, uint64_t unit)
{
    return fg_add(bytes, unit - 1) & ~(unit - 1);
}

#endif

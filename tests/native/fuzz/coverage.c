/*
 * coverage.c: what libFuzzer wants to know of each branch, from what gcc tells.
 *
 * gcc calls __sanitizer_cov_trace_pc in every basic block, which libFuzzer does not listen to any more; it takes counters.
 * The linker leads the calls here (--wrap), and a block's counter is found by its address.
 */
#include <stdint.h>

enum { COUNTERS = 1 << 14 };

extern void __sanitizer_cov_8bit_counters_init(uint8_t *start, uint8_t *stop);
void __wrap___sanitizer_cov_trace_pc(void);

static uint8_t counters[COUNTERS];

__attribute__((constructor)) static void announce(void)
{
    __sanitizer_cov_8bit_counters_init(counters, counters + COUNTERS);
}

void __wrap___sanitizer_cov_trace_pc(void)
{
    uint64_t place = (uint64_t)__builtin_return_address(0);
    uint8_t *counter = &counters[(place * UINT64_C(0x9e3779b97f4a7c15)) >> 50];
    if (*counter != UINT8_MAX)
        ++*counter;
}

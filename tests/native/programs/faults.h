/* faults.h: the calls that faults makes fail, one subject per hooked symbol that takes memory or gives it back. */
#ifndef TESTS_FAULTS_H
#define TESTS_FAULTS_H

#include "driver_api.h"

#define BYTES (8 * MIB)

struct subject {
    const char *symbol;
    void (*prepare)(void);             /* what the call needs; NULL: nothing but a context */
    int (*call)(void);                 /* checks that what it was to write to is untouched when it fails */
    void (*undo)(void);                /* after a call that succeeded: gives everything back */
};

extern const struct subject subjects[];
extern const size_t subject_count;

#endif

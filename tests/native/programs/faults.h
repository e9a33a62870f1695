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

/* Each ends with one without a name. */
extern const struct subject memory_subjects[], array_subjects[], graph_subjects[], context_subjects[];

/* A call with one result, which must be untouched when it fails. */
#define TAKER(name, variable, sentinel, expression) \
    static int name(void) \
    { \
        __typeof__(variable) result = (__typeof__(variable))sentinel; \
        int code = expression; \
        CHECK(code == 0 || result == (__typeof__(variable))sentinel); \
        if (code == 0) \
            variable = result; \
        return code; \
    }

/* The same call, where it must succeed. */
#define MUST(name, call) \
    static void name(void) { CHECK(call() == 0); }

#endif

/* symbols.h: the table behind cuGetProcAddress. */
#ifndef FAKE_SYMBOLS_H
#define FAKE_SYMBOLS_H

#include <stdbool.h>
#include <stddef.h>

struct symbol {
    const char *name;
    int since;
    bool per_thread;
    void (*address)(void);
};

extern const struct symbol fake_symbols[];
extern const size_t fake_symbol_count;

#endif /* FAKE_SYMBOLS_H */

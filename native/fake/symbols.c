/* symbols.c: the table behind cuGetProcAddress. Apart from every prototype: here all functions have one type. */
#include "symbols.h"

#define MODEL(symbol, name, since, per_thread) extern void symbol(void);
#define ABSENT MODEL
#include "cuda_symbols.def"
#undef MODEL

const struct symbol fake_symbols[] = {
#define MODEL(symbol, name, since, per_thread) { #name, since, per_thread, symbol },
#include "cuda_symbols.def"
};
const size_t fake_symbol_count = sizeof fake_symbols / sizeof *fake_symbols;

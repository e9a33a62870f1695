/* absent.c: the exported functions that the model has not: each its own address, each says so. */
#include "driver.h"

#define MODEL(symbol, name, since, per_thread)
#define ABSENT(symbol, name, since, per_thread) \
    CUAPI CUresult symbol(void); \
    CUAPI CUresult symbol(void) { FAULT_POINT(); return CUDA_ERROR_NOT_SUPPORTED; }
#include "cuda_symbols.def"

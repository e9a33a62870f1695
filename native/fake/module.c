/* module.c: the model has no code to load; it only says how it would. */
#include "driver.h"

#define LAZY_LOADING 2

static CUresult loading_mode(int *out)
{
    NOT_NULL(out);
    *out = LAZY_LOADING;
    return CUDA_SUCCESS;
}

CUAPI CUresult cuModuleGetLoadingMode(int *out) { DRIVER_CALL(loading_mode(out)); }

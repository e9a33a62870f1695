/*
 * start.c: cuInit, and the calls after which a pool may have shrunk.
 */
#include "pools.h"
#include "real.h"

CUresult fg_hook_cuInit(unsigned int flags)
{
    /* Before any work: a process whose limits can not be known does not get to see the GPU. */
    if (fg_process() == NULL)
        return CUDA_ERROR_SYSTEM_NOT_READY;
    fg_real_resolve_all();
    return FG_CALL(cuInit, flags);
}

#define SETTLING_HOOK(name, parameters, ...) \
    CUresult fg_hook_##name parameters \
    { \
        CUresult code = FG_CALL(name, ##__VA_ARGS__); \
        fg_pools_settle(); \
        return code; \
    }

SETTLING_HOOK(cuStreamSynchronize, (CUstream stream), stream)
SETTLING_HOOK(cuStreamSynchronize_ptsz, (CUstream stream), stream)
SETTLING_HOOK(cuCtxSynchronize, (void))
SETTLING_HOOK(cuCtxSynchronize_v2, (CUcontext context), context)
SETTLING_HOOK(cuEventSynchronize, (CUevent event), event)

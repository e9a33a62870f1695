/*
 * procaddress.c: cuGetProcAddress, by which CUDA's runtime gets at the driver.
 *
 * The driver decides what a name, a version and flags mean, and answers with an address. Only that address is looked
 * at: if it is one that a hook stands for, the hook's address is returned instead. Nothing is guessed from names.
 */
#include "procaddress.h"

#include <stdbool.h>
#include <stddef.h>

#include "real.h"

CUresult fg_hook_cuGetProcAddress(const char *symbol, void **function, int version, uint64_t flags)
{
    CUresult code = FG_CALL(cuGetProcAddress, symbol, function, version, flags);
    if (code == CUDA_SUCCESS && function != NULL)
        *function = fg_route(*function);
    return code;
}

CUresult fg_hook_cuGetProcAddress_v2(const char *symbol, void **function, int version, uint64_t flags, int *status)
{
    CUresult code = FG_CALL(cuGetProcAddress_v2, symbol, function, version, flags, status);
    if (code == CUDA_SUCCESS && function != NULL)
        *function = fg_route(*function);
    return code;
}

/* In cuda.h this is an inline function around the one above; should a driver export it, it is a way past the hooks.
 * Where there is none, what the header does is done. */
CUresult fg_hook_cuGetProcAddress_v2_ptsz(const char *symbol, void **function, int version, uint64_t flags,
                                          int *status)
{
    if (fg_real(FG_REAL_cuGetProcAddress_v2_ptsz) == NULL) {
        bool said = (flags & (CU_GET_PROC_ADDRESS_LEGACY_STREAM | CU_GET_PROC_ADDRESS_PER_THREAD_DEFAULT_STREAM)) != 0;
        flags = said ? flags : flags | CU_GET_PROC_ADDRESS_PER_THREAD_DEFAULT_STREAM;
        return fg_hook_cuGetProcAddress_v2(symbol, function, version, flags, status);
    }
    CUresult code = FG_CALL(cuGetProcAddress_v2_ptsz, symbol, function, version, flags, status);
    if (code == CUDA_SUCCESS && function != NULL)
        *function = fg_route(*function);
    return code;
}

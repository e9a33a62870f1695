/* proc_address.c: cuGetProcAddress: the newest symbol of a name that a caller of a given CUDA version can use. */
#include "driver.h"
#include "symbols.h"

#include <string.h>

#define FLAG_LEGACY 1u
#define FLAG_PER_THREAD 2u

enum status { STATUS_FOUND = 0, STATUS_NO_SYMBOL = 1, STATUS_VERSION_TOO_LOW = 2 };

/* NULL with `known` set when the name exists, but not yet in that version. */
static const struct symbol *search(const char *name, int version, bool per_thread, bool *known)
{
    const struct symbol *best = NULL;
    for (size_t i = 0; i < fake_symbol_count; i++) {
        const struct symbol *symbol = &fake_symbols[i];
        if (symbol->since > fake_cuda_version || symbol->per_thread != per_thread || strcmp(symbol->name, name) != 0) {
            continue;
        }
        *known = true;
        if (symbol->since <= version && (best == NULL || symbol->since > best->since)) {
            best = symbol;
        }
    }
    return best;
}

static CUresult find(const char *name, void **out, int version, uint64_t flags, enum status *status)
{
    bool known = false;
    const struct symbol *found = NULL;
    NOT_NULL(name);
    NOT_NULL(out);
    REQUIRE((flags & ~(uint64_t)(FLAG_LEGACY | FLAG_PER_THREAD)) == 0, CUDA_ERROR_INVALID_VALUE);
    *out = NULL;
    REQUIRE(version <= fake_cuda_version, CUDA_ERROR_INVALID_VALUE);
    if ((flags & FLAG_PER_THREAD) != 0) {
        found = search(name, version, true, &known);
    }
    if (found == NULL) {
        found = search(name, version, false, &known);
    }
    *status = found != NULL ? STATUS_FOUND : known ? STATUS_VERSION_TOO_LOW : STATUS_NO_SYMBOL;
    REQUIRE(found != NULL, CUDA_ERROR_NOT_FOUND);
    memcpy(out, &found->address, sizeof *out);
    return CUDA_SUCCESS;
}

CUAPI CUresult cuGetProcAddress(const char *name, void **out, int version, uint64_t flags)
{
    enum status status;
    FAULT_POINT();
    return find(name, out, version, flags, &status);
}

CUAPI CUresult cuGetProcAddress_v2(const char *name, void **out, int version, uint64_t flags, int *status)
{
    enum status found = STATUS_NO_SYMBOL;
    FAULT_POINT();
    CUresult rc = find(name, out, version, flags, &found);
    if (status != NULL) {
        *status = (int)found;
    }
    return rc;
}

/*
 * In cuda.h an inline function of programs that are compiled for per-thread default streams; no header says that a
 * driver exports it. The newest model does, and the others do not, so that an interceptor is seen to do with both.
 */
CUAPI CUresult cuGetProcAddress_v2_ptsz(const char *name, void **out, int version, uint64_t flags, int *status)
{
    FAULT_POINT();
    bool said = (flags & (FLAG_LEGACY | FLAG_PER_THREAD)) != 0;
    return cuGetProcAddress_v2(name, out, version, said ? flags : flags | FLAG_PER_THREAD, status);
}

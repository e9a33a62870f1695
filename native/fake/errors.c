/* errors.c: names and texts of CUresult codes. */
#include "driver.h"

static const struct error { CUresult code; const char *name, *text; } errors[] = {
    { CUDA_SUCCESS, "CUDA_SUCCESS", "no error" },
#define CUDA_ERROR(code, name, text) { code, #name, text },
#include "cuda_errors.def"
#undef CUDA_ERROR
};

static const struct error *find(CUresult code)
{
    for (size_t i = 0; i < sizeof errors / sizeof *errors; i++) {
        if (errors[i].code == code) {
            return &errors[i];
        }
    }
    return NULL;
}

CUAPI CUresult cuGetErrorName(CUresult code, const char **text)
{
    NOT_NULL(text);
    const struct error *error = find(code);
    *text = error != NULL ? error->name : NULL;
    return error != NULL ? CUDA_SUCCESS : CUDA_ERROR_INVALID_VALUE;
}

CUAPI CUresult cuGetErrorString(CUresult code, const char **text)
{
    NOT_NULL(text);
    const struct error *error = find(code);
    *text = error != NULL ? error->text : NULL;
    return error != NULL ? CUDA_SUCCESS : CUDA_ERROR_INVALID_VALUE;
}

/* nvml_absent.c: the exported functions that the model has not: each says so, once there is a session. */
#include "nvml.h"

#define ABSENT(symbol) \
    NVMLAPI nvmlReturn symbol(void); \
    NVMLAPI nvmlReturn symbol(void) \
    { \
        NVML_TRY(nvml_ready()); \
        return NVML_ERROR_NOT_SUPPORTED; \
    }
#include "nvml_absent.def"

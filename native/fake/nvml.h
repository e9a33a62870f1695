/* nvml.h: what the parts of the fake libnvidia-ml share. */
#ifndef FAKE_NVML_H
#define FAKE_NVML_H

#include "machine.h"
#include "nvml_abi.h"

#define NVML_TRY(expression) do { \
        nvmlReturn tried_ = (expression); \
        if (tried_ != NVML_SUCCESS) return tried_; \
    } while (0)
#define NVML_OUT(pointer) NVML_REQUIRE((pointer) != NULL, NVML_ERROR_INVALID_ARGUMENT)
#define NVML_REQUIRE(condition, error) do { if (!(condition)) return (error); } while (0)

/* One number about a device that the model can answer. */
#define NVML_NUMBER(function, type, expression) \
    NVMLAPI nvmlReturn function(nvmlDevice device, type *out) \
    { \
        NVML_TRY(nvml_check(device)); \
        NVML_OUT(out); \
        *out = (expression); \
        return NVML_SUCCESS; \
    }

struct nvml_device {
    int gpu;                              /* index in the machine */
    struct fake_gpu *hw;
};

extern struct machine nvml_machine;

/* NVML_ERROR_UNINITIALIZED outside of nvmlInit ... nvmlShutdown. */
nvmlReturn nvml_ready(void);
int nvml_device_count(void);
nvmlDevice nvml_device_at(int index);     /* NULL: no such device */
/* Ready, and the handle is one of ours. */
nvmlReturn nvml_check(nvmlDevice device);
/* The processes with a context of any kind on a device that this process may know of, with their ids here; returns how
 * many. */
unsigned nvml_processes(nvmlDevice device, struct machine_process processes[FAKE_SLOT_COUNT]);
/* Now, as NVML states times: microseconds since 1970. */
uint64_t nvml_time_us(void);
/* Copy a text into a caller's buffer, NVML_ERROR_INSUFFICIENT_SIZE if it does not fit. */
nvmlReturn nvml_text(char *buffer, unsigned length, const char *text);

#endif /* FAKE_NVML_H */

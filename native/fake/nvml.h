/* nvml.h: what the parts of the fake libnvidia-ml share. */
#ifndef FAKE_NVML_H
#define FAKE_NVML_H

#include "machine.h"
#include "nvml_abi.h"

#define NVML_TRY(expression) do { \
        nvmlReturn tried_ = (expression); \
        if (tried_ != NVML_SUCCESS) return tried_; \
    } while (0)
#define NVML_REQUIRE(condition, error) do { if (!(condition)) return (error); } while (0)

struct nvml_device {
    int gpu;                              /* index in the machine */
    const struct fake_gpu *hw;
};

extern struct machine nvml_machine;

/* NVML_ERROR_UNINITIALIZED outside of nvmlInit ... nvmlShutdown. */
nvmlReturn nvml_ready(void);
int nvml_device_count(void);
nvmlDevice nvml_device_at(int index);     /* NULL: no such device */
/* Ready, and the handle is one of ours. */
nvmlReturn nvml_check(nvmlDevice device);
/* Copy a text into a caller's buffer, NVML_ERROR_INSUFFICIENT_SIZE if it does not fit. */
nvmlReturn nvml_text(char *buffer, unsigned length, const char *text);

#endif /* FAKE_NVML_H */

/* behave_nvml.h: what the checks of NVML's functions share. */
#ifndef TESTS_BEHAVE_NVML_H
#define TESTS_BEHAVE_NVML_H

#include "behave.h"

enum {
    INVALID_ARGUMENT = 2,
    NOT_SUPPORTED = 3,
    NOT_FOUND = 6,
    INSUFFICIENT_SIZE = 7,
    VERSION_MISMATCH = 25
};

/* A function of NVML, whatever its parameters are. */
void *nvml(const char *name);
#define NVML(name, ...) ((int (*)(__VA_ARGS__))nvml(name))

/* Start a session and return the GPU that the driver numbers so. */
handle_t nvml_device(unsigned index);

/* The driver's own account of this process on GPU 0: it holds more than the shim knows of, draws pictures, ... */
void driver_holds_more(void);
void driver_sees_graphics(void);
void driver_sees_mps(void);
void driver_sees_work(void);
/* The driver keeps accounts of the processes on GPU 0. */
void driver_keeps_accounts(void);

/* The allocation of a GPU is gone from now on. */
void forget_allocation(int gpu);

#endif

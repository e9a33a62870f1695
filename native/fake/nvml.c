/* nvml.c: the session, the system, and the texts of errors. */
#define _GNU_SOURCE
#include "nvml.h"
#include "version.h"

#include <errno.h>
#include <pthread.h>
#include <stdio.h>
#include <string.h>

#define INIT_FLAGS 3u

struct machine nvml_machine = MACHINE_INITIALISER;

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static int sessions;
static struct nvml_device devices[FAKE_GPU_COUNT_MAX];
static int count;

static void enumerate(void)
{
    int visible[FAKE_GPU_COUNT_MAX];
    count = machine_visible(&nvml_machine, visible);
    for (int i = 0; i < count; i++) {
        devices[i] = (struct nvml_device){ visible[i], &nvml_machine.gpus[visible[i]] };
    }
}

/*
 * Reach the driver through its control node. The codes are NVML's: without the node there is no driver; bits that keep
 * a user out are a matter of permission; what the devices cgroup refuses NVML calls unknown (seen in containers that it
 * kept out: github.com/NVIDIA/nvidia-docker issue 1182).
 */
static nvmlReturn reach_driver(void)
{
    NVML_REQUIRE(machine_open(&nvml_machine) == MACHINE_OK, NVML_ERROR_DRIVER_NOT_LOADED);
    switch (machine_control_error()) {
    case 0:
        return NVML_SUCCESS;
    case EACCES:
        return NVML_ERROR_NO_PERMISSION;
    case EPERM:
        return NVML_ERROR_UNKNOWN;
    default:
        return NVML_ERROR_DRIVER_NOT_LOADED;
    }
}

/* The machine stays mapped when the last session ends: another thread may still be reading it. */
NVMLAPI nvmlReturn nvmlInitWithFlags(unsigned flags)
{
    NVML_REQUIRE((flags & ~INIT_FLAGS) == 0, NVML_ERROR_INVALID_ARGUMENT);
    pthread_mutex_lock(&lock);
    bool first = __atomic_load_n(&sessions, __ATOMIC_ACQUIRE) == 0;
    nvmlReturn rc = first ? reach_driver() : NVML_SUCCESS;
    if (rc == NVML_SUCCESS) {
        if (first) {
            enumerate();
        }
        __atomic_fetch_add(&sessions, 1, __ATOMIC_ACQ_REL);
    }
    pthread_mutex_unlock(&lock);
    return rc;
}

NVMLAPI nvmlReturn nvmlInit(void) { return nvmlInitWithFlags(0); }
NVMLAPI nvmlReturn nvmlInit_v2(void) { return nvmlInitWithFlags(0); }

NVMLAPI nvmlReturn nvmlShutdown(void)
{
    pthread_mutex_lock(&lock);
    nvmlReturn rc = nvml_ready();
    if (rc == NVML_SUCCESS) {
        __atomic_fetch_sub(&sessions, 1, __ATOMIC_ACQ_REL);
    }
    pthread_mutex_unlock(&lock);
    return rc;
}

nvmlReturn nvml_ready(void)
{
    return __atomic_load_n(&sessions, __ATOMIC_ACQUIRE) > 0 ? NVML_SUCCESS : NVML_ERROR_UNINITIALIZED;
}

int nvml_device_count(void)
{
    return count;
}

nvmlDevice nvml_device_at(int index)
{
    return index >= 0 && index < count ? &devices[index] : NULL;
}

nvmlReturn nvml_check(nvmlDevice device)
{
    NVML_TRY(nvml_ready());
    for (int i = 0; i < count; i++) {
        if (device == &devices[i]) {
            return __atomic_load_n(&device->hw->lost, __ATOMIC_RELAXED) ? NVML_ERROR_GPU_IS_LOST : NVML_SUCCESS;
        }
    }
    return NVML_ERROR_INVALID_ARGUMENT;
}

nvmlReturn nvml_text(char *buffer, unsigned length, const char *text)
{
    NVML_REQUIRE(buffer != NULL, NVML_ERROR_INVALID_ARGUMENT);
    NVML_REQUIRE(strlen(text) < length, NVML_ERROR_INSUFFICIENT_SIZE);
    strcpy(buffer, text);
    return NVML_SUCCESS;
}

NVMLAPI nvmlReturn nvmlSystemGetDriverVersion(char *buffer, unsigned length)
{
    NVML_TRY(nvml_ready());
    return nvml_text(buffer, length, fake_driver_version);
}

NVMLAPI nvmlReturn nvmlSystemGetNVMLVersion(char *buffer, unsigned length)
{
    return nvml_text(buffer, length, fake_nvml_version);
}

NVMLAPI nvmlReturn nvmlSystemGetCudaDriverVersion(int *version)
{
    NVML_REQUIRE(version != NULL, NVML_ERROR_INVALID_ARGUMENT);
    *version = fake_cuda_version;
    return NVML_SUCCESS;
}

NVMLAPI nvmlReturn nvmlSystemGetCudaDriverVersion_v2(int *version)
{
    return nvmlSystemGetCudaDriverVersion(version);
}

NVMLAPI const char *nvmlErrorString(nvmlReturn code)
{
    switch (code) {
#define NVML_ERROR(code, name, text) case code: return text;
#include "nvml_errors.def"
#undef NVML_ERROR
    default:
        return "Unknown Error";
    }
}

/* driver.c: the process: cuInit, versions, the lock, and what fork() does to it. */
#define _GNU_SOURCE
#include "capture.h"

#include <pthread.h>
#include <unistd.h>

struct machine fake_machine = MACHINE_INITIALISER;
bool driver_per_thread;

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static bool initialised;
static bool forked;                       /* a child of an initialised process: CUDA can not be used any more */
static bool fork_handlers;

static void before_fork(void)
{
    pthread_mutex_lock(&lock);
    machine_before_fork(&fake_machine);
}

static void after_fork_parent(void)
{
    machine_after_fork_parent(&fake_machine);
    pthread_mutex_unlock(&lock);
}

static void after_fork_child(void)
{
    forked = initialised;
    machine_after_fork_child(&fake_machine);
    pthread_mutex_unlock(&lock);
}

CUresult driver_lock(const char *symbol)
{
    pthread_mutex_lock(&lock);
    driver_per_thread = false;
    CUresult rc = initialised && !forked ? capture_admits(symbol) : CUDA_ERROR_NOT_INITIALIZED;
    if (rc != CUDA_SUCCESS) {
        pthread_mutex_unlock(&lock);
    }
    return rc;
}

void driver_unlock(void)
{
    pthread_mutex_unlock(&lock);
}

void driver_relock(void)
{
    pthread_mutex_lock(&lock);
}

static CUresult initialise(void)
{
    REQUIRE(!forked, CUDA_ERROR_NOT_INITIALIZED);
    if (initialised) {
        return CUDA_SUCCESS;
    }
    if (!fork_handlers) {
        REQUIRE(pthread_atfork(before_fork, after_fork_parent, after_fork_child) == 0, CUDA_ERROR_OUT_OF_MEMORY);
        fork_handlers = true;
    }
    REQUIRE(machine_open(&fake_machine) == MACHINE_OK, CUDA_ERROR_NO_DEVICE);
    REQUIRE(devices_enumerate() > 0, CUDA_ERROR_NO_DEVICE);
    initialised = true;
    return CUDA_SUCCESS;
}

CUAPI CUresult cuInit(unsigned flags)
{
    FAULT_POINT();
    REQUIRE(flags == 0, CUDA_ERROR_INVALID_VALUE);
    pthread_mutex_lock(&lock);
    CUresult rc = initialise();
    pthread_mutex_unlock(&lock);
    return rc;
}

CUAPI CUresult cuDriverGetVersion(int *version)
{
    FAULT_POINT();
    NOT_NULL(version);
    *version = fake_cuda_version;
    return CUDA_SUCCESS;
}

CUAPI CUresult cuProfilerStart(void)
{
    DRIVER_CALL(CUDA_SUCCESS);
}

CUAPI CUresult cuProfilerStop(void)
{
    DRIVER_CALL(CUDA_SUCCESS);
}

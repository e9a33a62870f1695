/* version.c: the only source that is compiled for each driver version; the symbols are the version scripts' part. */
#include "version.h"

#ifndef FAKE_CUDA_VERSION
#define FAKE_CUDA_VERSION 13000
#endif

/*
 * A driver release that came with this CUDA; of the newest only the branch, 615, is known. NVML puts its own major
 * version before it.
 */
#if FAKE_CUDA_VERSION == 11080
#define DRIVER "520.61.05"
#define NVML_MAJOR "11."
#elif FAKE_CUDA_VERSION == 12020
#define DRIVER "535.104.05"
#define NVML_MAJOR "12."
#elif FAKE_CUDA_VERSION == 12090
#define DRIVER "575.57.08"
#define NVML_MAJOR "12."
#elif FAKE_CUDA_VERSION == 13000
#define DRIVER "580.65.06"
#define NVML_MAJOR "13."
#elif FAKE_CUDA_VERSION == 13050
#define DRIVER "615.71.05"
#define NVML_MAJOR "13."
#else
#error "no driver release is known for this CUDA version"
#endif

const int fake_cuda_version = FAKE_CUDA_VERSION;
const char *const fake_driver_version = DRIVER;
const char *const fake_nvml_version = NVML_MAJOR DRIVER;

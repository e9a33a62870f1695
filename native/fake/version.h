/* version.h: which driver this is. The build makes one of each version from the same sources; see rules.mk. */
#ifndef FAKE_VERSION_H
#define FAKE_VERSION_H

extern const int fake_cuda_version;          /* the newest CUDA that it knows: 1000 * major + 10 * minor */
extern const char *const fake_driver_version; /* as in the names of its files */
extern const char *const fake_nvml_version;

#endif /* FAKE_VERSION_H */

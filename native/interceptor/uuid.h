/*
 * uuid.h: a GPU's UUID from the text that NVML and the environment carry.
 */
#ifndef FRACGPU_INTERCEPTOR_UUID_H
#define FRACGPU_INTERCEPTOR_UUID_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum { FG_UUID_TEXT_LENGTH = 40 };

/* Parse `GPU-` and 8-4-4-4-12 hex digits at the start of `text`, of which `length` characters may be read. */
bool fg_uuid_parse(const char *text, size_t length, uint8_t uuid[16]);

#endif

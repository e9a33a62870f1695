/* limiter_units.h: the list of the limiter's unit tests, and the files that they work on. */
#ifndef TESTS_LIMITER_UNITS_H
#define TESTS_LIMITER_UNITS_H

#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "ledger.h"
#include "page.h"

/* A test that is not in the list has no prototype: it does not compile, so that none is forgotten. */
#pragma GCC diagnostic error "-Wmissing-prototypes"

/* tests/native/test_limiter.py runs each of these lines. */
#define UNITS(UNIT) \
    UNIT(amounts) \
    UNIT(page_faults) \
    UNIT(page_changes) \
    UNIT(page_threads) \
    UNIT(gate) \
    UNIT(attach_faults) \
    UNIT(reserve) \
    UNIT(announcements_count) \
    UNIT(charge_without_limit) \
    UNIT(dead_slots) \
    UNIT(reaper_needs_its_file) \
    UNIT(slots_run_out) \
    UNIT(fork) \
    UNIT(group) \
    UNIT(table) \
    UNIT(table_threads) \
    UNIT(double_free)

#define DECLARE(name) void test_##name(void);
UNITS(DECLARE)
#undef DECLARE

#define CHECK(condition) \
    do { \
        if (!(condition)) { \
            fprintf(stderr, "%s:%d: %s\n", __FILE__, __LINE__, #condition); \
            exit(1); \
        } \
    } while (0)

static const uint8_t uuid[16] = {1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16};
extern const char *directory;

static inline const char *path_of(const char *name)
{
    static char path[FG_PATH_BYTES];
    snprintf(path, sizeof(path), "%s/%s", directory, name);
    return path;
}

static inline void write_file(const char *name, const void *content, size_t bytes, size_t file_bytes)
{
    int descriptor = open(path_of(name), O_RDWR | O_CREAT | O_TRUNC, 0600);
    CHECK(descriptor >= 0 && write(descriptor, content, bytes) == (ssize_t)bytes);
    CHECK(ftruncate(descriptor, (off_t)file_bytes) == 0);
    close(descriptor);
}

static inline struct fracgpu_state_header new_header(uint32_t slots)
{
    struct fracgpu_state_header header = {.magic = FRACGPU_STATE_MAGIC, .abi_version = FRACGPU_ABI_VERSION,
                                          .header_bytes = FRACGPU_STATE_HEADER_BYTES, .slot_count = slots,
                                          .slot_stride_bytes = FRACGPU_SLOT_STRIDE_BYTES};
    memcpy(header.device_uuid, uuid, sizeof(uuid));
    return header;
}

static inline const char *new_state(uint32_t slots)
{
    struct fracgpu_state_header header = new_header(slots);
    write_file("state", &header, sizeof(header),
               FRACGPU_STATE_HEADER_BYTES + (size_t)slots * FRACGPU_SLOT_STRIDE_BYTES);
    return path_of("state");
}

static inline struct fracgpu_config new_config(uint64_t limit)
{
    struct fracgpu_config config = {.magic = FRACGPU_CONFIG_MAGIC, .abi_version = FRACGPU_ABI_VERSION,
                                    .header_bytes = sizeof(config), .generation = 2, .memory_limit_bytes = limit};
    strcpy(config.allocation_id, "claim-request-device-0");
    memcpy(config.device_uuid, uuid, sizeof(uuid));
    return config;
}

#endif

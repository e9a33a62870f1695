/*
 * target.c: what reads the two files of an allocation, on files that anybody may have written.
 *
 * The first byte of an input says which file it is (see KIND), the second how it is altered, the rest what is in it.
 * seeds.py makes inputs in this form. What must hold for every input is checked here; the sanitizers check the rest. At
 * the end the program says how many inputs got past the first checks: a target that refuses everything proves nothing.
 */
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "amount.h"
#include "feedback.h"
#include "gate.h"
#include "group.h"

enum kind { KIND_CONFIG = 'C', KIND_STATE = 'S' };

/* The second byte. */
enum alteration { CUT_SHORT = 1, ODD_GENERATION = 2, OTHER_GPU = 4 };

enum { FILE_BYTES_MAX = 256 << 10, LIMIT = 1 << 20 };

#define EXPECT(condition) \
    do { \
        if (!(condition)) { \
            fprintf(stderr, "%s:%d: %s\n", __FILE__, __LINE__, #condition); \
            abort(); \
        } \
    } while (0)

int LLVMFuzzerInitialize(int *count, char ***arguments);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes);

static unsigned long inputs, pages, feedbacks, states, reservations;
static const uint8_t uuid[16] = {1, 1, 1, 1, 2, 2, 3, 3, 4, 4, 5, 5, 5, 5, 5, 5};

static void report(void)
{
    fprintf(stderr, "accepted: %lu inputs, %lu pages, %lu feedbacks, %lu states, %lu reservations\n", inputs, pages,
            feedbacks, states, reservations);
}

int LLVMFuzzerInitialize(int *count, char ***arguments)
{
    (void)count;
    (void)arguments;
    atexit(report);
    return 0;
}

static int open_file(const void *content, size_t bytes, size_t file_bytes)
{
    int descriptor = memfd_create("input", MFD_CLOEXEC);
    EXPECT(descriptor >= 0 && ftruncate(descriptor, (off_t)file_bytes) == 0);
    bytes = bytes < file_bytes ? bytes : file_bytes;
    EXPECT(pwrite(descriptor, content, bytes, 0) == (ssize_t)bytes);
    return descriptor;
}

static const char *path_of(int descriptor)
{
    static char path[64];
    snprintf(path, sizeof(path), "/proc/self/fd/%d", descriptor);
    return path;
}

static void use_page(struct fg_page *page)
{
    struct fg_device_feedback device = {0};
    struct fg_slot_feedback slot = {0};
    struct fg_limits limits = fg_page_limits(page);
    pages++;
    EXPECT(limits.memory_bytes != 0 && limits.generation % 2 == 0);
    EXPECT(strnlen(page->config->allocation_id, FRACGPU_ALLOCATION_ID_BYTES) < FRACGPU_ALLOCATION_ID_BYTES);
    feedbacks += page->feedback != NULL;
    if (fg_feedback_device(page, &device))
        EXPECT(device.own_utilization_bp <= 10000 && device.device_memory_utilization_bp <= 10000);
    for (uint32_t index = 0; index < page->feedback_slots + 2; index++) {
        if (fg_feedback_slot(page, index, 1, &slot))
            EXPECT(index < page->feedback_slots && slot.nvml_used_bytes <= FG_AMOUNT_MAX && slot.sm_bp <= 10000);
    }
}

static void read_config(uint8_t how, const uint8_t *content, size_t bytes)
{
    uint8_t file[FRACGPU_CONFIG_FILE_BYTES + FRACGPU_FEEDBACK_HEADER_BYTES] = {0};
    struct fg_page page;
    /* The page first, then what is behind it, without the padding between. */
    size_t head = sizeof(struct fracgpu_config), behind = sizeof(struct fracgpu_feedback_header);
    memcpy(file, content, bytes < head ? bytes : head);
    /* An odd generation is waited for at every attempt: now and then is enough. */
    if (!(how & ODD_GENERATION))
        file[offsetof(struct fracgpu_config, generation)] &= 0xfe;
    content += bytes < head ? bytes : head, bytes -= bytes < head ? bytes : head;
    memcpy(file + FRACGPU_CONFIG_FILE_BYTES, content, bytes < behind ? bytes : behind);
    content += bytes < behind ? bytes : behind, bytes -= bytes < behind ? bytes : behind;
    int descriptor = open_file(file, sizeof(file), how & CUT_SHORT ? bytes * 16 : sizeof(file) + bytes);
    if (!(how & CUT_SHORT))
        EXPECT(pwrite(descriptor, content, bytes, sizeof(file)) == (ssize_t)bytes);
    if (fg_page_map(&page, descriptor) == FG_OK) {
        use_page(&page);
        fg_page_close(&page);
    }
    EXPECT(page.config == NULL && page.feedback == NULL);
    close(descriptor);
}

static void use_ledger(struct fg_ledger *ledger)
{
    static const uint64_t amounts[] = {1, LIMIT / 2, LIMIT, LIMIT + 1, UINT64_MAX};
    states++;
    /* What lay above the file's own high-water mark has not been looked at yet. */
    fg_ledger_reap(ledger);
    EXPECT(ledger->own_index < ledger->slot_count && ledger->slot_count <= FG_SLOTS_MAX);
    for (size_t index = 0; index < sizeof(amounts) / sizeof(amounts[0]); index++) {
        bool fits = amounts[index] <= LIMIT;
        /* Everybody else in the file is dead, whatever it says: exactly what fits is granted. */
        EXPECT((fg_ledger_reserve(ledger, LIMIT, amounts[index], FG_PLAIN) == FG_GRANTED) == fits);
        if (!fits)
            continue;
        reservations++;
        EXPECT(fg_ledger_used(ledger) == amounts[index]);
        fg_ledger_discharge(ledger, amounts[index], FG_PLAIN);
    }
    fg_ledger_record_refusal(ledger, 1);
    EXPECT(fg_ledger_used(ledger) == 0);
}

/* Nobody holds a lock of these files, so nobody in them is alive. */
static void visit_live(void *context, const struct fracgpu_slot *slot, uint32_t index)
{
    (void)context;
    (void)slot;
    (void)index;
    EXPECT(!"a slot without an owner counts");
}

static void read_state(uint8_t how, const uint8_t *content, size_t bytes)
{
    struct fg_ledger ledger;
    struct fracgpu_state_header header = {0};
    size_t head = bytes < sizeof(header) ? bytes : sizeof(header);
    memcpy(&header, content, head);
    if (!(how & OTHER_GPU))
        memcpy(header.device_uuid, uuid, sizeof(uuid));
    /* The slots where the header says that they are, and a file of the size that it says, if that is possible. */
    uint64_t first = header.header_bytes, size = first + (uint64_t)header.slot_count * header.slot_stride_bytes;
    size = fg_min(how & CUT_SHORT ? fg_subtract(size, 1) : size, FILE_BYTES_MAX);
    int descriptor = open_file(&header, sizeof(header), size);
    size_t slots = fg_min(bytes - head, fg_subtract(size, first));
    EXPECT(pwrite(descriptor, content + head, slots, (off_t)first) == (ssize_t)slots);
    enum fg_fault seen = fg_usage_each(path_of(descriptor), uuid, visit_live, NULL);
    if (fg_ledger_attach(&ledger, path_of(descriptor), uuid) == FG_OK) {
        EXPECT(seen == FG_OK);
        use_ledger(&ledger);
        fg_ledger_detach(&ledger);
    }
    EXPECT(ledger.header == NULL && ledger.own == NULL);
    close(descriptor);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes)
{
    inputs++;
    if (bytes < 2)
        return 0;
    if (data[0] == KIND_CONFIG)
        read_config(data[1], data + 2, bytes - 2);
    else if (data[0] == KIND_STATE)
        read_state(data[1], data + 2, bytes - 2);
    return 0;
}

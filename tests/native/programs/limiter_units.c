/*
 * limiter_units: the limiter's parts one by one. Built with sanitizers by `make -C native sanitize`.
 *
 * Argument: a directory to make files in. Several ledgers in one process stand for several processes: each has its own
 * open file, and with it its own slot.
 */
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "amount.h"
#include "group.h"
#include "ledger.h"
#include "page.h"
#include "region.h"
#include "table.h"

#define CHECK(condition) \
    do { \
        if (!(condition)) { \
            fprintf(stderr, "%s:%d: %s\n", __FILE__, __LINE__, #condition); \
            exit(1); \
        } \
    } while (0)

static const uint8_t uuid[16] = {1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16};
static const char *directory;

static const char *path_of(const char *name)
{
    static char path[FG_PATH_BYTES];
    snprintf(path, sizeof(path), "%s/%s", directory, name);
    return path;
}

static void write_file(const char *name, const void *content, size_t bytes, size_t file_bytes)
{
    int descriptor = open(path_of(name), O_RDWR | O_CREAT | O_TRUNC, 0600);
    CHECK(descriptor >= 0 && write(descriptor, content, bytes) == (ssize_t)bytes);
    CHECK(ftruncate(descriptor, (off_t)file_bytes) == 0);
    close(descriptor);
}

static struct fracgpu_state_header new_header(uint32_t slots)
{
    struct fracgpu_state_header header = {.magic = FRACGPU_STATE_MAGIC, .abi_version = FRACGPU_ABI_VERSION,
                                          .header_bytes = FRACGPU_STATE_HEADER_BYTES, .slot_count = slots,
                                          .slot_stride_bytes = FRACGPU_SLOT_STRIDE_BYTES};
    memcpy(header.device_uuid, uuid, sizeof(uuid));
    return header;
}

static const char *new_state(uint32_t slots)
{
    struct fracgpu_state_header header = new_header(slots);
    write_file("state", &header, sizeof(header),
               FRACGPU_STATE_HEADER_BYTES + (size_t)slots * FRACGPU_SLOT_STRIDE_BYTES);
    return path_of("state");
}

static struct fracgpu_config new_config(uint64_t limit)
{
    struct fracgpu_config config = {.magic = FRACGPU_CONFIG_MAGIC, .abi_version = FRACGPU_ABI_VERSION,
                                    .header_bytes = sizeof(config), .generation = 2, .memory_limit_bytes = limit};
    strcpy(config.allocation_id, "claim-request-device-0");
    memcpy(config.device_uuid, uuid, sizeof(uuid));
    return config;
}

/* ---- amounts ---- */

static void test_amounts(void)
{
    CHECK(fg_add(UINT64_MAX, 1) == UINT64_MAX && fg_add(1, 2) == 3);
    CHECK(fg_subtract(1, 2) == 0 && fg_subtract(3, 2) == 1);
    CHECK(fg_multiply(UINT64_MAX, 2) == UINT64_MAX && fg_multiply(3, 4) == 12);
    CHECK(fg_round_up(UINT64_MAX, 512) >= UINT64_MAX - 511 && fg_round_up(513, 512) == 1024 && fg_round_up(0, 512) == 0);
    CHECK(fg_amount((uint64_t)-1) == 0 && fg_amount(INT64_MAX) == FG_AMOUNT_MAX && fg_amount(7) == 7);
}

/* ---- config page ---- */

static enum fg_fault open_page(const struct fracgpu_config *config, size_t file_bytes)
{
    struct fg_page page;
    write_file("config", config, sizeof(*config), file_bytes);
    enum fg_fault fault = fg_page_open(&page, path_of("config"));
    CHECK(fault == FG_OK || page.config == NULL);
    fg_page_close(&page);
    return fault;
}

static void test_page_faults(void)
{
    struct fg_page page;
    struct fracgpu_config config = new_config(1000);
    CHECK(open_page(&config, 4096) == FG_OK);
    CHECK(open_page(&config, 4095) == FG_PAGE_TRUNCATED);
    CHECK(fg_page_open(&page, path_of("absent")) == FG_PAGE_UNREADABLE);
    CHECK(fg_page_open(&page, directory) == FG_PAGE_UNREADABLE);
    config = new_config(1000), config.magic = 0;
    CHECK(open_page(&config, 4096) == FG_PAGE_MAGIC);
    config = new_config(1000), config.abi_version++;
    CHECK(open_page(&config, 4096) == FG_PAGE_VERSION);
    config = new_config(1000), config.generation++;
    CHECK(open_page(&config, 4096) == FG_PAGE_GENERATION);
    config = new_config(0);
    CHECK(open_page(&config, 4096) == FG_PAGE_VALUE);
    config = new_config(1000), config.header_bytes = 8;
    CHECK(open_page(&config, 4096) == FG_PAGE_VALUE);
    config = new_config(1000), config.cores_percent = 101;
    CHECK(open_page(&config, 4096) == FG_PAGE_VALUE);
    config = new_config(1000), config.allocation_id[0] = '\0';
    CHECK(open_page(&config, 4096) == FG_PAGE_VALUE);
    config = new_config(1000), memset(config.allocation_id, 'x', sizeof(config.allocation_id));
    CHECK(open_page(&config, 4096) == FG_PAGE_VALUE);
    config = new_config(1000), config.header_bytes = sizeof(config) + 64, config.flags = 1u << 31;
    CHECK(open_page(&config, 4096) == FG_OK);
}

static void test_page_changes(void)
{
    struct fracgpu_config config = new_config(1000);
    struct fg_page page;
    CHECK(fg_page_adopt(&page, &config) == FG_OK);
    CHECK(fg_page_limits(&page).memory_bytes == 1000 && fg_page_limits(&page).limited);
    /* The host writes: the old limit holds, however long it takes; then the new one. */
    config.generation = 3, config.memory_limit_bytes = 55;
    CHECK(fg_page_limits(&page).memory_bytes == 1000);
    CHECK(page.stuck_generation == 3 && fg_page_limits(&page).memory_bytes == 1000);
    config.generation = 4;
    CHECK(fg_page_limits(&page).memory_bytes == 55);
    config.generation = 6, config.flags = FRACGPU_FLAG_OBSERVE;
    CHECK(!fg_page_limits(&page).limited);
    config.generation = 8, config.flags = FRACGPU_FLAG_SUSPEND;
    CHECK(fg_page_limits(&page).limited);
    config.generation = 10, config.memory_limit_bytes = FRACGPU_NO_LIMIT;
    CHECK(!fg_page_limits(&page).limited);
    fg_page_close(&page);
}

/* ---- ledger ---- */

static void test_attach_faults(void)
{
    struct fg_ledger ledger;
    const uint8_t other[16] = {9};
    CHECK(fg_ledger_attach(&ledger, path_of("absent"), uuid) == FG_STATE_UNREADABLE);
    CHECK(fg_ledger_attach(&ledger, directory, uuid) == FG_STATE_UNREADABLE);
    CHECK(fg_ledger_attach(&ledger, new_state(4), other) == FG_STATE_DEVICE && ledger.header == NULL);
    CHECK(truncate(new_state(4), 100) == 0);
    CHECK(fg_ledger_attach(&ledger, path_of("state"), uuid) == FG_STATE_SHORT);
    CHECK(truncate(new_state(4), FRACGPU_STATE_HEADER_BYTES + 4 * FRACGPU_SLOT_STRIDE_BYTES - 1) == 0);
    CHECK(fg_ledger_attach(&ledger, path_of("state"), uuid) == FG_STATE_SHORT);
    for (int field = 0; field < 9; field++) {
        struct fracgpu_state_header header = new_header(4);
        header.magic += field == 0;
        header.abi_version += field == 1;
        header.header_bytes = field == 2 ? 64 : field == 3 ? 1u << 31 : header.header_bytes + (field == 8);
        header.slot_count = field == 4 ? 0 : field == 5 ? UINT32_MAX : header.slot_count;
        header.slot_stride_bytes = field == 6 ? 64 : field == 7 ? UINT32_MAX : header.slot_stride_bytes;
        write_file("state", &header, sizeof(header), 1 << 20);
        CHECK(fg_ledger_attach(&ledger, path_of("state"), uuid) == FG_STATE_INVALID && ledger.header == NULL);
    }
    char endless[FG_PATH_BYTES + 1];
    memset(endless, 'x', FG_PATH_BYTES);
    endless[FG_PATH_BYTES] = '\0';
    CHECK(fg_ledger_attach(&ledger, endless, uuid) == FG_STATE_UNREADABLE);
}

static void test_reserve(void)
{
    struct fg_ledger one, two;
    const char *path = new_state(4);
    CHECK(fg_ledger_attach(&one, path, uuid) == FG_OK && fg_ledger_attach(&two, path, uuid) == FG_OK);
    CHECK(one.own_index == 0 && two.own_index == 1 && one.header->slot_high_water == 2);
    CHECK(fg_ledger_reserve(&one, 1000, 600, FG_PLAIN) == FG_GRANTED);
    CHECK(fg_ledger_reserve(&two, 1000, 401, FG_PLAIN) == FG_REFUSED);
    CHECK(fg_ledger_reserve(&two, 1000, 400, FG_MANAGED) == FG_GRANTED);
    CHECK(fg_ledger_reserve(&one, 1000, 1, FG_PLAIN) == FG_REFUSED);
    CHECK(fg_ledger_reserve(&one, 1000, 0, FG_PLAIN) == FG_GRANTED);
    CHECK(two.own->managed_bytes == 400 && one.header->peak_bytes == 1000);
    CHECK(fg_ledger_used(&one) == 1000 && fg_ledger_used(&two) == 1000);
    CHECK(one.own->pending_bytes == 0 && two.own->pending_bytes == 0);
    fg_ledger_discharge(&two, 400, FG_MANAGED);
    CHECK(two.own->managed_bytes == 0 && fg_ledger_used(&one) == 600);
    fg_ledger_record_refusal(&one, 77);
    CHECK(one.header->refusals == 1 && one.header->last_refused_bytes == 77 && one.header->last_refusal_ns > 0);
    /* Sizes at the end of the range neither wrap nor disturb. */
    const uint64_t huge[] = {UINT64_MAX, UINT64_MAX - 1, UINT64_C(1) << 63, FG_AMOUNT_MAX + 1};
    for (size_t index = 0; index < sizeof(huge) / sizeof(huge[0]); index++) {
        CHECK(fg_ledger_reserve(&one, 1000, huge[index], FG_PLAIN) == FG_REFUSED);
        CHECK(fg_ledger_reserve(&one, UINT64_MAX - 1, huge[index], FG_PLAIN) == FG_REFUSED);
    }
    CHECK(fg_ledger_used(&one) == 600);
    /* A counter below zero for a moment is nothing, and one beyond belief fills the allocation. */
    two.own->committed_bytes = (uint64_t)-5;
    CHECK(fg_ledger_used(&one) == 600);
    two.own->committed_bytes = (uint64_t)INT64_MAX;
    CHECK(fg_ledger_reserve(&one, 1000, 1, FG_PLAIN) == FG_REFUSED);
    fg_ledger_detach(&one);
    fg_ledger_detach(&two);
}

static void test_announcements_count(void)
{
    struct fg_ledger own, other;
    const char *path = new_state(4);
    CHECK(fg_ledger_attach(&own, path, uuid) == FG_OK && fg_ledger_attach(&other, path, uuid) == FG_OK);
    /* What somebody else has announced may be taken at any moment, so it is not to be had, and is waited for in vain. */
    other.own->pending_bytes = 600;
    CHECK(fg_ledger_reserve(&own, 1000, 401, FG_PLAIN) == FG_REFUSED);
    CHECK(own.own->pending_bytes == 0 && own.own->committed_bytes == 0);
    CHECK(fg_ledger_reserve(&own, 1000, 400, FG_PLAIN) == FG_GRANTED);
    other.own->pending_bytes = 0;
    CHECK(fg_ledger_reserve(&own, 1000, 600, FG_PLAIN) == FG_GRANTED);
    fg_ledger_detach(&own);
    fg_ledger_detach(&other);
}

static void test_charge_without_limit(void)
{
    struct fg_ledger ledger;
    CHECK(fg_ledger_attach(&ledger, new_state(4), uuid) == FG_OK);
    fg_ledger_charge(&ledger, 5000, FG_POOL);
    CHECK(ledger.own->committed_bytes == 5000 && ledger.own->pool_bytes == 5000 && ledger.header->peak_bytes == 5000);
    CHECK(fg_ledger_reserve(&ledger, 1000, 1, FG_PLAIN) == FG_REFUSED);
    fg_ledger_discharge(&ledger, 5000, FG_POOL);
    CHECK(fg_ledger_reserve(&ledger, 1000, 1000, FG_PLAIN) == FG_GRANTED);
    fg_ledger_detach(&ledger);
}

static void test_dead_slots(void)
{
    struct fg_ledger dying, living;
    const char *path = new_state(4);
    uint64_t used = 77;
    CHECK(fg_ledger_attach(&dying, path, uuid) == FG_OK && fg_ledger_attach(&living, path, uuid) == FG_OK);
    CHECK(fg_ledger_reserve(&dying, 1000, 900, FG_PLAIN) == FG_GRANTED);
    CHECK(fg_usage_read(path, uuid, &used) == FG_OK && used == 900);
    dying.own->pending_bytes = 50;     /* killed in the middle of a reservation */
    fg_ledger_detach(&dying);
    CHECK(fg_usage_read(path, uuid, &used) == FG_OK && used == 0);
    CHECK(fg_ledger_reserve(&living, 1000, 1000, FG_PLAIN) == FG_GRANTED);
    CHECK(fg_slot(&living, 0)->state == FRACGPU_SLOT_DEAD && living.header->reaped_slots == 1);
    CHECK(living.own->state == FRACGPU_SLOT_LIVE);
    /* The next one gets the dead slot, clean. */
    CHECK(fg_ledger_attach(&dying, path, uuid) == FG_OK && dying.own_index == 0);
    CHECK(dying.own->committed_bytes == 0 && dying.own->pending_bytes == 0 && dying.own->generation == 2);
    CHECK(fg_ledger_reap(&living).slots == 0);
    fg_ledger_detach(&dying);
    fg_ledger_detach(&living);
}

static void test_reaper_needs_its_file(void)
{
    struct fg_ledger dying, living;
    const char *path = new_state(4);
    CHECK(fg_ledger_attach(&living, path, uuid) == FG_OK && fg_ledger_attach(&dying, path, uuid) == FG_OK);
    CHECK(fg_ledger_reserve(&dying, 1000, 900, FG_PLAIN) == FG_GRANTED);
    char *moved = strdup(path_of("moved"));
    CHECK(rename(path_of("state"), moved) == 0);
    /* Another file in its place has no locks: nobody may be declared dead by it. */
    new_state(4);
    CHECK(fg_ledger_reap(&living).slots == 0 && dying.own->state == FRACGPU_SLOT_LIVE);
    CHECK(unlink(path_of("state")) == 0);
    CHECK(fg_ledger_reap(&living).slots == 0);
    CHECK(rename(moved, path_of("state")) == 0);
    CHECK(fg_ledger_reap(&living).slots == 0);
    free(moved);
    fg_ledger_detach(&dying);
    CHECK(fg_ledger_reap(&living).slots == 1);
    fg_ledger_detach(&living);
}

static void test_slots_run_out(void)
{
    struct fg_ledger ledgers[4], late;
    const char *path = new_state(4);
    for (int index = 0; index < 4; index++)
        CHECK(fg_ledger_attach(&ledgers[index], path, uuid) == FG_OK);
    CHECK(fg_ledger_attach(&late, path, uuid) == FG_STATE_FULL && late.header == NULL);
    fg_ledger_detach(&ledgers[2]);
    CHECK(fg_ledger_attach(&late, path, uuid) == FG_OK && late.own_index == 2);
    fg_ledger_detach(&late);
    /* A slot whose owner died while it was taking it. */
    fg_slot(&ledgers[0], 2)->state = FRACGPU_SLOT_CLAIMING;
    CHECK(fg_ledger_attach(&late, path, uuid) == FG_OK && late.own_index == 2);
    fg_ledger_detach(&late);
    for (int index = 0; index < 4; index++)
        fg_ledger_detach(&ledgers[index]);
}

static void test_fork(void)
{
    struct fg_ledger ledger, other;
    const char *path = new_state(4);
    int *wiped = fg_region_wiped(4096);
    CHECK(wiped != NULL && fg_ledger_attach(&ledger, path, uuid) == FG_OK);
    *wiped = 1;
    int hold[2], status;
    CHECK(pipe(hold) == 0);
    CHECK(fg_ledger_reserve(&ledger, 1000, 900, FG_PLAIN) == FG_GRANTED);
    pid_t child = fork();
    if (child == 0) {
        char byte;
        close(hold[1]);
        int zero = *wiped == 0;
        CHECK(read(hold[0], &byte, 1) == 0);
        _exit(zero ? 0 : 1);
    }
    close(hold[0]);
    /* The parent's end frees its slot while the child lives on. */
    fg_ledger_detach(&ledger);
    CHECK(fg_ledger_attach(&other, path, uuid) == FG_OK && other.own_index == 0);
    CHECK(fg_ledger_reserve(&other, 1000, 1000, FG_PLAIN) == FG_GRANTED);
    close(hold[1]);
    CHECK(waitpid(child, &status, 0) == child && status == 0);
    fg_ledger_detach(&other);
    fg_region_free(wiped, 4096);
}

/* ---- several allocations of one GPU ---- */

static void test_group(void)
{
    struct fracgpu_config small = new_config(100), large = new_config(1000);
    struct fg_member members[2] = {{.index = 0}, {.index = 1}};
    struct fg_group group = {.count = 2, .members = {&members[0], &members[1]}};
    struct fg_charge charge;
    CHECK(fg_page_adopt(&members[0].page, &small) == FG_OK && fg_page_adopt(&members[1].page, &large) == FG_OK);
    CHECK(fg_ledger_attach(&members[0].ledger, new_state(2), uuid) == FG_OK);
    CHECK(rename(path_of("state"), strcat(strcpy((char[FG_PATH_BYTES]){0}, directory), "/first")) == 0);
    strcpy(members[0].ledger.path, path_of("first"));
    CHECK(fg_ledger_attach(&members[1].ledger, new_state(2), uuid) == FG_OK);
    CHECK(fg_group_view(&group).limit == 1100 && fg_group_view(&group).limited);
    CHECK(fg_group_reserve(&group, 80, FG_PLAIN, &charge) && charge.member == 0 && charge.bytes == 80);
    CHECK(fg_group_reserve(&group, 30, FG_PLAIN, &charge) && charge.member == 1);
    CHECK(fg_group_reserve(&group, 20, FG_PLAIN, &charge) && charge.member == 0);
    CHECK(!fg_group_reserve(&group, 980, FG_PLAIN, &charge));
    CHECK(fg_group_reserve(&group, 970, FG_PLAIN, &charge) && charge.member == 1);
    CHECK(fg_group_view(&group).used == 1100);
    CHECK(!fg_group_reserve(&group, 1, FG_PLAIN, &charge));
    small.generation = 4, small.flags = FRACGPU_FLAG_OBSERVE;
    CHECK(!fg_group_view(&group).limited);
    CHECK(fg_group_reserve(&group, UINT64_MAX, FG_PLAIN, &charge) && charge.member == 0 && charge.bytes == FG_AMOUNT_MAX);
    fg_ledger_discharge(&members[0].ledger, charge.bytes, charge.kind);
    CHECK(fg_group_view(&group).used == 1100);
    fg_ledger_detach(&members[0].ledger);
    fg_ledger_detach(&members[1].ledger);
}

/* ---- table ---- */

static void test_table(void)
{
    enum { KEYS = 40000 };
    struct fg_table table = {0};
    struct fg_value value;
    for (uint64_t index = 1; index <= KEYS; index++) {
        value = (struct fg_value){.bytes = index, .member = (uint32_t)index};
        CHECK(fg_table_insert(&table, 0x7f0000000000 + (index << 21), &value));
    }
    CHECK(table.levels[1] != NULL && table.levels[FG_TABLE_LEVELS - 1] == NULL);
    for (uint64_t index = KEYS; index > 0; index -= 2) {
        CHECK(fg_table_take(&table, 0x7f0000000000 + (index << 21), &value) && value.bytes == index);
        CHECK(!fg_table_take(&table, 0x7f0000000000 + (index << 21), &value));
    }
    for (uint64_t index = 1; index <= KEYS; index++) {
        struct fg_value *found = fg_table_find(&table, 0x7f0000000000 + (index << 21));
        CHECK(index % 2 == 0 ? found == NULL : found != NULL && found->bytes == index);
    }
    CHECK(!fg_table_insert(&table, 0, &value) && !fg_table_insert(&table, UINT64_MAX, &value));
    CHECK(!fg_table_take(&table, 0, &value) && fg_table_find(&table, UINT64_MAX) == NULL);
    /* Places are used again: no growth however often something comes and goes. */
    for (uint64_t index = 1; index <= 20 * KEYS; index++) {
        value = (struct fg_value){.bytes = index};
        CHECK(fg_table_insert(&table, 0x600000000000 + (index << 9), &value));
        CHECK(fg_table_take(&table, 0x600000000000 + (index << 9), &value) && value.bytes == index);
    }
    CHECK(table.levels[FG_TABLE_LEVELS - 1] == NULL);
}

static struct fg_table shared_table;

static void *churn(void *argument)
{
    uint64_t base = ((uint64_t)(uintptr_t)argument + 1) << 40;
    struct fg_value value;
    for (uint64_t index = 1; index <= 20000; index++) {
        value = (struct fg_value){.bytes = base + index};
        CHECK(fg_table_insert(&shared_table, base + (index << 8), &value));
        if (index % 3 == 0) {
            uint64_t earlier = base + ((index - 2) << 8);
            CHECK(fg_table_take(&shared_table, earlier, &value) && value.bytes == base + index - 2);
        }
    }
    return NULL;
}

static void test_table_threads(void)
{
    pthread_t threads[4];
    for (uintptr_t index = 0; index < 4; index++)
        CHECK(pthread_create(&threads[index], NULL, churn, (void *)index) == 0);
    for (int index = 0; index < 4; index++)
        pthread_join(threads[index], NULL);
    for (uint64_t base = 1; base <= 4; base++) {
        for (uint64_t index = 1; index <= 20000; index++) {
            struct fg_value *found = fg_table_find(&shared_table, (base << 40) + (index << 8));
            CHECK((found == NULL) == (index % 3 == 1 && index <= 19998));
        }
    }
}

/* One key, two threads that free it: exactly one gets it. */
static void *take_all(void *argument)
{
    struct fg_value value;
    uintptr_t taken = 0;
    (void)argument;
    for (uint64_t index = 1; index <= 20000; index++)
        taken += fg_table_take(&shared_table, index << 12, &value);
    return (void *)taken;
}

static void test_double_free(void)
{
    pthread_t threads[2];
    uintptr_t taken = 0;
    struct fg_value value = {.bytes = 1};
    memset(&shared_table, 0, sizeof(shared_table));
    for (uint64_t index = 1; index <= 20000; index++)
        CHECK(fg_table_insert(&shared_table, index << 12, &value));
    for (int index = 0; index < 2; index++)
        CHECK(pthread_create(&threads[index], NULL, take_all, NULL) == 0);
    for (int index = 0; index < 2; index++) {
        void *result;
        pthread_join(threads[index], &result);
        taken += (uintptr_t)result;
    }
    CHECK(taken == 20000);
}

static const struct {
    const char *name;
    void (*run)(void);
} tests[] = {
    {"amounts", test_amounts},
    {"page_faults", test_page_faults},
    {"page_changes", test_page_changes},
    {"attach_faults", test_attach_faults},
    {"reserve", test_reserve},
    {"announcements_count", test_announcements_count},
    {"charge_without_limit", test_charge_without_limit},
    {"dead_slots", test_dead_slots},
    {"reaper_needs_its_file", test_reaper_needs_its_file},
    {"slots_run_out", test_slots_run_out},
    {"fork", test_fork},
    {"group", test_group},
    {"table", test_table},
    {"table_threads", test_table_threads},
    {"double_free", test_double_free},
};

int main(int count, char **arguments)
{
    CHECK(count == 3);
    directory = arguments[2];
    for (size_t index = 0; index < sizeof(tests) / sizeof(tests[0]); index++) {
        if (strcmp(arguments[1], "--list") == 0)
            puts(tests[index].name);
        if (strcmp(arguments[1], tests[index].name) == 0) {
            tests[index].run();
            return 0;
        }
    }
    return strcmp(arguments[1], "--list") == 0 ? 0 : 3;
}

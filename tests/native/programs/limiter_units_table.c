/* The table of live allocations: alone, from several threads, and freed twice. */
#include <pthread.h>

#include "limiter_units.h"
#include "table.h"

void test_table(void)
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

void test_table_threads(void)
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

void test_double_free(void)
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

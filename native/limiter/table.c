/*
 * table.c: see table.h.
 */
#include "table.h"

#include <stddef.h>

#include "region.h"

#define EMPTY UINT64_C(0)
#define BUSY  UINT64_MAX

static size_t bucket_count(int level)
{
    return (size_t)64 << (3 * level);
}

/* The two buckets of `key` in a level. Addresses are multiples of large powers of two: only the high bits of the
 * product depend on all bits of the key. */
static void locate(uint64_t key, int level, size_t bucket[2])
{
    uint64_t mixed = (key ^ (key >> 32)) * UINT64_C(0x9e3779b97f4a7c15);
    bucket[0] = (size_t)(mixed >> 40) & (bucket_count(level) - 1);
    bucket[1] = (size_t)((mixed ^ (mixed >> 29)) * UINT64_C(0xbf58476d1ce4e5b9) >> 40) & (bucket_count(level) - 1);
}

static bool put(struct fg_bucket *bucket, uint64_t key, const struct fg_value *value)
{
    for (int index = 0; index < FG_BUCKET_KEYS; index++) {
        uint64_t seen = __atomic_load_n(&bucket->keys[index], __ATOMIC_RELAXED);
        if (seen != EMPTY || !__atomic_compare_exchange_n(&bucket->keys[index], &seen, BUSY, 0, __ATOMIC_ACQUIRE,
                                                          __ATOMIC_RELAXED))
            continue;
        bucket->values[index] = *value;
        __atomic_store_n(&bucket->keys[index], key, __ATOMIC_RELEASE);
        return true;
    }
    return false;
}

static struct fg_bucket *add_level(struct fg_table *table, int level)
{
    size_t bytes = bucket_count(level) * sizeof(struct fg_bucket);
    struct fg_bucket *created = fg_region_private(bytes);
    if (created == NULL)
        return NULL;
    struct fg_bucket *present = NULL;
    if (__atomic_compare_exchange_n(&table->levels[level], &present, created, 0, __ATOMIC_ACQ_REL, __ATOMIC_ACQUIRE))
        return created;
    fg_region_free(created, bytes);
    return present;
}

static int newest_level(struct fg_table *table)
{
    int level = FG_TABLE_LEVELS - 1;
    while (level >= 0 && __atomic_load_n(&table->levels[level], __ATOMIC_ACQUIRE) == NULL)
        level--;
    return level;
}

bool fg_table_insert(struct fg_table *table, uint64_t key, const struct fg_value *value)
{
    size_t bucket[2];
    if (key == EMPTY || key == BUSY)
        return false;
    int newest = newest_level(table);
    for (int level = newest; level >= 0; level--) {
        struct fg_bucket *buckets = __atomic_load_n(&table->levels[level], __ATOMIC_ACQUIRE);
        locate(key, level, bucket);
        if (put(&buckets[bucket[0]], key, value) || put(&buckets[bucket[1]], key, value))
            return true;
    }
    for (int level = newest + 1; level < FG_TABLE_LEVELS; level++) {
        struct fg_bucket *buckets = add_level(table, level);
        if (buckets == NULL)
            return false;
        locate(key, level, bucket);
        if (put(&buckets[bucket[0]], key, value) || put(&buckets[bucket[1]], key, value))
            return true;
    }
    return false;
}

/* Where `key` is: its bucket and index, or NULL. */
static struct fg_bucket *search(struct fg_table *table, uint64_t key, int *index)
{
    size_t bucket[2];
    if (key == EMPTY || key == BUSY)
        return NULL;
    for (int level = newest_level(table); level >= 0; level--) {
        struct fg_bucket *buckets = __atomic_load_n(&table->levels[level], __ATOMIC_ACQUIRE);
        locate(key, level, bucket);
        for (int choice = 0; choice < 2; choice++) {
            struct fg_bucket *found = &buckets[bucket[choice]];
            for (*index = 0; *index < FG_BUCKET_KEYS; ++*index) {
                if (__atomic_load_n(&found->keys[*index], __ATOMIC_ACQUIRE) == key)
                    return found;
            }
        }
    }
    return NULL;
}

bool fg_table_take(struct fg_table *table, uint64_t key, struct fg_value *value)
{
    int index;
    struct fg_bucket *found = search(table, key, &index);
    if (found == NULL)
        return false;
    /* Two threads that free the same pointer both get here; the exchange gives it to one of them. */
    if (!__atomic_compare_exchange_n(&found->keys[index], &key, BUSY, 0, __ATOMIC_ACQUIRE, __ATOMIC_RELAXED))
        return false;
    *value = found->values[index];
    __atomic_store_n(&found->keys[index], EMPTY, __ATOMIC_RELEASE);
    return true;
}

struct fg_value *fg_table_find(struct fg_table *table, uint64_t key)
{
    int index;
    struct fg_bucket *found = search(table, key, &index);
    return found == NULL ? NULL : &found->values[index];
}

void fg_table_each(struct fg_table *table, fg_table_visit *visit, void *argument)
{
    for (int level = newest_level(table); level >= 0; level--) {
        struct fg_bucket *buckets = __atomic_load_n(&table->levels[level], __ATOMIC_ACQUIRE);
        for (size_t place = 0; place < bucket_count(level) * FG_BUCKET_KEYS; place++) {
            struct fg_bucket *bucket = &buckets[place / FG_BUCKET_KEYS];
            uint64_t key = __atomic_load_n(&bucket->keys[place % FG_BUCKET_KEYS], __ATOMIC_ACQUIRE);
            if (key == EMPTY || key == BUSY)
                continue;
            struct fg_value value = bucket->values[place % FG_BUCKET_KEYS];
            visit(argument, key, &value);
        }
    }
}

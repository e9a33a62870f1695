/*
 * table.h: what is charged for which pointer or handle.
 *
 * A lock-free hash table. Keys sit in buckets of eight, one cache line each, and every key has two buckets in each
 * level; when both are full in all levels, a level eight times as large is added. Nothing is ever moved, so readers
 * need no protection from growth, and a free touches a few cache lines however much is allocated.
 */
#ifndef FRACGPU_LIMITER_TABLE_H
#define FRACGPU_LIMITER_TABLE_H

#include <stdbool.h>
#include <stdint.h>

enum { FG_TABLE_LEVELS = 6, FG_BUCKET_KEYS = 8 };

struct fg_value {
    uint64_t bytes;
    uint64_t link;             /* meaning depends on the table: a reference count, another table's key */
    uint32_t member;                   /* which allocation is charged */
    uint32_t kind;
};

struct fg_bucket {
    uint64_t keys[FG_BUCKET_KEYS];
    struct fg_value values[FG_BUCKET_KEYS];
};

/* All zeros is an empty table. Belongs in a region that is wiped on fork. */
struct fg_table {
    struct fg_bucket *levels[FG_TABLE_LEVELS];
};

/* Remember `value` for `key`, which must not be in the table. False when no memory is left for it (or for the keys 0
 * and UINT64_MAX, which no driver hands out). */
bool fg_table_insert(struct fg_table *table, uint64_t key, const struct fg_value *value);

/* Remove `key`. Of several concurrent calls for one key exactly one gets it. */
bool fg_table_take(struct fg_table *table, uint64_t key, struct fg_value *value);

/* The value of `key` in place, or NULL. The caller knows that nobody takes it meanwhile. */
struct fg_value *fg_table_find(struct fg_table *table, uint64_t key);

/* Call `visit` for every key, also for some that come or go meanwhile. The value is a copy, and torn if another thread
 * takes or inserts that key at this moment: whoever acts upon it takes the key first and looks again. */
typedef void fg_table_visit(void *argument, uint64_t key, const struct fg_value *value);
void fg_table_each(struct fg_table *table, fg_table_visit *visit, void *argument);

#endif

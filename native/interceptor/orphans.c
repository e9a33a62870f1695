/*
 * orphans.c: see orphans.h.
 */
#include "orphans.h"

#include "../limiter/region.h"
#include "charge.h"
#include "pools.h"

/* Entries that come while the list is being made. */
enum { SLACK = 256 };

static bool is_of_group(const struct fg_process *process, const struct fg_group *group, uint32_t member)
{
    for (uint32_t index = 0; index < group->count; index++) {
        if (group->members[index] == &process->members[member])
            return true;
    }
    return false;
}

static bool belongs(const struct fg_orphans *orphans, const struct fg_value *value)
{
    struct fg_process *process = orphans->process;
    bool has_context = value->kind == FG_PLAIN || value->kind == FG_MANAGED || value->kind == FG_OVERHEAD;
    if (orphans->context != 0)
        return has_context && value->link == orphans->context;
    if (value->kind == FG_POOL)
        return value->link < FG_POOLS_MAX && process->pools[value->link].group == orphans->group;
    return has_context && value->member < process->member_count && is_of_group(process, orphans->group, value->member) &&
           fg_table_find(&process->contexts, value->link) == NULL;
}

static void count(void *argument, uint64_t key, const struct fg_value *value)
{
    struct fg_orphans *orphans = argument;
    (void)key;
    orphans->capacity += belongs(orphans, value);
}

static void take(void *argument, uint64_t key, const struct fg_value *seen)
{
    struct fg_orphans *orphans = argument;
    struct fg_value value;
    if (!belongs(orphans, seen) || orphans->count == orphans->capacity ||
        !fg_table_take(orphans->table, key, &value))
        return;
    if (belongs(orphans, &value))
        orphans->list[orphans->count++] = (struct fg_orphan){.table = orphans->table, .key = key, .value = value};
    else
        fg_table_insert(orphans->table, key, &value);
}

/* The tables whose plain entries have a context as their link. */
static void walk(struct fg_orphans *orphans, fg_table_visit *visit)
{
    struct fg_process *process = orphans->process;
    struct fg_table *tables[] = {&process->pointers, &process->arrays, &process->mipmaps, &process->modules};
    for (size_t index = 0; index < sizeof(tables) / sizeof(tables[0]); index++) {
        orphans->table = tables[index];
        fg_table_each(orphans->table, visit, orphans);
    }
}

static void collect(struct fg_orphans *orphans)
{
    walk(orphans, count);
    orphans->capacity += SLACK;
    /* Without memory for the list everything stays charged until it is freed or the process ends. */
    orphans->list = fg_region_private(orphans->capacity * sizeof(*orphans->list));
    if (orphans->list != NULL)
        walk(orphans, take);
}

void fg_orphans_of_context(struct fg_orphans *orphans, struct fg_process *process, CUcontext context)
{
    *orphans = (struct fg_orphans){.process = process, .context = (uint64_t)(uintptr_t)context};
    collect(orphans);
}

void fg_orphans_of_primary(struct fg_orphans *orphans, struct fg_process *process, struct fg_group *group)
{
    *orphans = (struct fg_orphans){.process = process, .group = group};
    collect(orphans);
}

static void release(struct fg_orphans *orphans)
{
    if (orphans->list != NULL)
        fg_region_free(orphans->list, orphans->capacity * sizeof(*orphans->list));
    orphans->list = NULL;
    orphans->count = 0;
}

void fg_orphans_discharge(struct fg_orphans *orphans)
{
    for (size_t index = 0; index < orphans->count; index++) {
        const struct fg_value *value = &orphans->list[index].value;
        if (value->kind == FG_POOL)
            fg_pool_pointer_freed(orphans->process, value);
        else
            fg_discharge(&(struct fg_charge){.bytes = value->bytes, .member = value->member, .kind = value->kind});
    }
    release(orphans);
}

void fg_orphans_restore(struct fg_orphans *orphans)
{
    for (size_t index = 0; index < orphans->count; index++)
        fg_table_insert(orphans->list[index].table, orphans->list[index].key, &orphans->list[index].value);
    release(orphans);
}

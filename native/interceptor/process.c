/*
 * process.c: attaching, once per process and again in a child.
 */
#include "process.h"

#include <stdbool.h>
#include <string.h>

#include "../limiter/pause.h"
#include "../limiter/region.h"
#include "source.h"

/* How long a thread waits for another one that is attaching, which takes some ten microseconds. */
enum { ATTACH_WAITS = 2000, ATTACH_WAIT_US = 500 };

struct fg_process *fg_process_region;

static struct fg_process *region(void)
{
    struct fg_process *present = __atomic_load_n(&fg_process_region, __ATOMIC_ACQUIRE);
    if (present != NULL)
        return present;
    struct fg_process *created = fg_region_wiped(sizeof(*created));
    if (created == NULL)
        return NULL;
    if (__atomic_compare_exchange_n(&fg_process_region, &present, created, 0, __ATOMIC_ACQ_REL, __ATOMIC_ACQUIRE))
        return created;
    fg_region_free(created, sizeof(*created));
    return present;
}

static struct fg_group *group_for(struct fg_process *process, const uint8_t uuid[16])
{
    for (uint32_t index = 0; index < process->group_count; index++) {
        if (memcmp(process->groups[index].uuid, uuid, 16) == 0)
            return &process->groups[index];
    }
    struct fg_group *group = &process->groups[process->group_count++];
    memcpy(group->uuid, uuid, 16);
    group->count = 0;
    return group;
}

static enum fg_fault add_member(struct fg_process *process, const struct fg_source_name *name)
{
    char path[FG_PATH_BYTES];
    struct fg_member *member = &process->members[process->member_count];
    enum fg_fault fault = fg_source_open(name, &member->page, &process->configs[process->member_count]);
    if (fault != FG_OK)
        return fault;
    const uint8_t *uuid = member->page.config->device_uuid;
    fault = fg_source_state_path(name, path, sizeof(path)) ? fg_ledger_attach(&member->ledger, path, uuid)
                                                           : FG_STATE_UNREADABLE;
    if (fault != FG_OK) {
        fg_page_close(&member->page);
        return fault;
    }
    member->index = process->member_count++;
    struct fg_group *group = group_for(process, uuid);
    group->members[group->count++] = member;
    return FG_OK;
}

/* An allocation that can not be enforced is left out: its GPU then has no group, and work on it is refused. */
static bool attach(struct fg_process *process)
{
    struct fg_source_name names[FG_MEMBERS_MAX];
    process->member_count = 0;
    process->group_count = 0;
    int count = fg_source_names(names);
    for (int index = 0; index < count; index++)
        add_member(process, &names[index]);
    return process->member_count > 0;
}

struct fg_process *fg_process_attach(void)
{
    struct fg_process *process = region();
    if (process == NULL)
        return NULL;
    for (int waits = 0; waits < ATTACH_WAITS; waits++) {
        uint32_t state = FG_DETACHED;
        if (__atomic_compare_exchange_n(&process->state, &state, FG_ATTACHING, 0, __ATOMIC_ACQ_REL, __ATOMIC_ACQUIRE)) {
            bool attached = attach(process);
            __atomic_store_n(&process->state, attached ? FG_ATTACHED : FG_DETACHED, __ATOMIC_RELEASE);
            return attached ? process : NULL;
        }
        if (state == FG_ATTACHED)
            return process;
        fg_sleep(ATTACH_WAIT_US);
    }
    return NULL;
}

/*
 * group.h: all allocations of one GPU in one container.
 *
 * A container may hold several claims on the same GPU. Its programs see one GPU with the sum of the limits; each
 * reservation is charged whole to the first allocation, by id, that has room, because an allocation may be shared
 * with other containers and must never be exceeded on its own.
 */
#ifndef FRACGPU_LIMITER_GROUP_H
#define FRACGPU_LIMITER_GROUP_H

#include <stdbool.h>
#include <stdint.h>

#include "ledger.h"
#include "page.h"

enum { FG_MEMBERS_MAX = 64 };

struct fg_member {
    struct fg_page page;
    struct fg_ledger ledger;
    uint32_t index;                    /* in the process's list, and in fg_charge */
};

struct fg_group {
    uint8_t uuid[16];
    uint32_t count;
    struct fg_member *members[FG_MEMBERS_MAX];   /* by allocation id */
};

/* What was charged where. */
struct fg_charge {
    uint64_t bytes;
    uint32_t member;
    uint32_t kind;                     /* enum fg_kind */
};

struct fg_view {
    uint64_t limit;                    /* meaningless unless limited */
    uint64_t used;
    bool limited;
};

/* Charge `bytes` to the first member with room. Without a limit it is charged and never refused. */
bool fg_group_reserve(struct fg_group *group, uint64_t bytes, enum fg_kind kind, struct fg_charge *charge);

/* Note for the host that a reservation was refused for good. */
void fg_group_record_refusal(struct fg_group *group, uint64_t bytes);

struct fg_view fg_group_view(struct fg_group *group);

#endif

/*
 * group.c: see group.h.
 */
#include "group.h"

#include "amount.h"

bool fg_group_reserve(struct fg_group *group, uint64_t bytes, enum fg_kind kind, struct fg_charge *charge)
{
    for (uint32_t index = 0; index < group->count; index++) {
        struct fg_member *member = group->members[index];
        struct fg_limits limits = fg_page_limits(&member->page);
        *charge = (struct fg_charge){.bytes = bytes, .member = member->index, .kind = kind};
        if (!limits.limited) {
            charge->bytes = fg_min(bytes, FG_AMOUNT_MAX);
            fg_ledger_charge(&member->ledger, charge->bytes, kind);
            return true;
        }
        if (fg_ledger_reserve(&member->ledger, limits.memory_bytes, bytes, kind) == FG_GRANTED)
            return true;
    }
    return false;
}

void fg_group_record_refusal(struct fg_group *group, uint64_t bytes)
{
    fg_ledger_record_refusal(&group->members[0]->ledger, bytes);
}

struct fg_view fg_group_view(struct fg_group *group)
{
    struct fg_view view = {.limit = 0, .used = 0, .limited = true};
    for (uint32_t index = 0; index < group->count; index++) {
        struct fg_member *member = group->members[index];
        struct fg_limits limits = fg_page_limits(&member->page);
        view.limited &= limits.limited;
        view.limit = fg_add(view.limit, limits.memory_bytes);
        view.used = fg_add(view.used, fg_ledger_used(&member->ledger));
    }
    return view;
}

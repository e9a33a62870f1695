/* Several allocations of one GPU. */
#include "amount.h"
#include "group.h"
#include "limiter_units.h"

void test_group(void)
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

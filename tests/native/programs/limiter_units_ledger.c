/*
 * Sums: saturating amounts, and what a ledger grants, refuses and counts.
 * Several ledgers in one process stand for several processes: each has its own open file, and with it its own slot.
 */
#include "amount.h"
#include "limiter_units.h"

void test_amounts(void)
{
    CHECK(fg_add(UINT64_MAX, 1) == UINT64_MAX && fg_add(1, 2) == 3);
    CHECK(fg_subtract(1, 2) == 0 && fg_subtract(3, 2) == 1);
    CHECK(fg_multiply(UINT64_MAX, 2) == UINT64_MAX && fg_multiply(3, 4) == 12);
    CHECK(fg_round_up(UINT64_MAX, 512) >= UINT64_MAX - 511 && fg_round_up(513, 512) == 1024 && fg_round_up(0, 512) == 0);
    CHECK(fg_amount((uint64_t)-1) == 0 && fg_amount(INT64_MAX) == FG_AMOUNT_MAX && fg_amount(7) == 7);
}

void test_attach_faults(void)
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

void test_reserve(void)
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

void test_announcements_count(void)
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

void test_charge_without_limit(void)
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

/*
 * behave SYMBOL LIMIT_MIB STATE...: does the library behave as the hook of SYMBOL must make it behave.
 *
 * LIMIT_MIB is the limit of GPU 0 (and of GPU 1 where there is one); the STATE files are read as the host reads them.
 * Exit 0: yes. 1: no, and stderr says where. 3: SYMBOL has no check. The same program runs on the library that lacks
 * that one hook, where it must answer 1.
 */
#include <fcntl.h>
#include <unistd.h>

#include "../../../native/abi/fracgpu_abi.h"
#include "behave.h"

size_t limit;
handle_t own_pool;
static char **state_paths;

static struct fracgpu_slot own_slot(int device)
{
    struct fracgpu_slot slot;
    int descriptor = open(state_paths[device], O_RDONLY);
    CHECK(descriptor >= 0);
    CHECK(pread(descriptor, &slot, sizeof(slot), FRACGPU_STATE_HEADER_BYTES) == sizeof(slot));
    close(descriptor);
    CHECK(slot.state == FRACGPU_SLOT_LIVE && slot.pending_bytes == 0);
    return slot;
}

uint64_t charged_on(int device)
{
    return own_slot(device).committed_bytes;
}

uint64_t pinned(void)
{
    return own_slot(0).host_pinned_bytes;
}

uint64_t overhead(void)
{
    return own_slot(0).overhead_bytes;
}

uint64_t charged(void)
{
    return charged_on(0);
}

size_t shown_free(void)
{
    size_t free_bytes, total;
    CHECK(cuMemGetInfo_v2(&free_bytes, &total) == 0);
    CHECK(total == limit);
    return free_bytes;
}

static const struct {
    const char *name;
    void (*run)(void);
} checks[] = {
#define ENTRY(symbol, check) {#symbol, check},
    CHECKS(ENTRY)
#undef ENTRY
};

/* Checks of what contexts and code cost; all others look at allocations alone. */
static bool is_of_overhead(const char *symbol)
{
    static const char *const beginnings[] = {"cuCtxCreate", "cuCtxDestroy", "cuCtxAttach", "cuCtxDetach",
                                             "cuCtxSetLimit", "cuDevicePrimaryCtx", "cuGreenCtx", "cuModule",
                                             "cuLibrary"};
    for (size_t index = 0; index < sizeof(beginnings) / sizeof(beginnings[0]); index++) {
        if (strncmp(symbol, beginnings[index], strlen(beginnings[index])) == 0)
            return true;
    }
    return false;
}

int main(int count, char **arguments)
{
    CHECK(count >= 4);
    const char *symbol = arguments[1];
    limit = strtoul(arguments[2], NULL, 10) * MIB;
    state_paths = arguments + 3;
    setenv("FRACGPU_COUNT_OVERHEAD", is_of_overhead(symbol) ? "1" : "0", 1);
    load_driver();
    CHECK(cuInit(0) == 0);
    if (strcmp(symbol, "cuInit") != 0)
        use_device(0);
    capture_around(symbol);
    for (size_t index = 0; index < sizeof(checks) / sizeof(checks[0]); index++) {
        if (strcmp(checks[index].name, symbol) != 0)
            continue;
        struct pool_props props = {.type = 1, .location = {.type = 1, .id = 0}};
        if (strcmp(symbol, "cuInit") != 0)
            CHECK(cuMemPoolCreate(&own_pool, &props) == 0);
        checks[index].run();
        return 0;
    }
    return 3;
}

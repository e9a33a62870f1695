/*
 * routes.c: from the address of a real function to that of the hook, for procaddress.c.
 *
 * CUDA's runtime asks for some 480 functions when it starts, so the answer is one look into a hash table. It is made
 * when it is first needed, by whoever needs it: without a lock and without memory of its own. Several threads may fill
 * it at once. All of them put the same pairs into it, a place once taken keeps its key, and each thread looks only
 * when it has itself put everything in or somebody has said that he did; so nobody waits for anybody, and a child
 * that was forked in the middle just does it again.
 */
#include "procaddress.h"

#include <stddef.h>
#include <stdint.h>

#include "real.h"

#define HOOK(concern, name, parameters, arguments) int name parameters;
#include "hooks.def"
#undef HOOK

#define HOOK(concern, name, parameters, arguments) {FG_REAL_##name, (void *)name},
static const struct {
    enum fg_real_id id;
    void *hook;
} hooks[] = {
#include "hooks.def"
};
#undef HOOK

enum { HOOK_COUNT = sizeof(hooks) / sizeof(hooks[0]) };

/* At most half full: two looks or so. */
#define PLACE_BITS 10
#define PLACE_COUNT (1u << PLACE_BITS)
_Static_assert(HOOK_COUNT * 2 <= PLACE_COUNT, "more hooks than the table of routes is for: raise PLACE_BITS");

static struct {
    void *real;                        /* NULL: not taken, and nothing lies behind it */
    void *hook;
} places[PLACE_COUNT];
static int complete;

static void *load(void *const *word)
{
    return __atomic_load_n(word, __ATOMIC_ACQUIRE);
}

/* Functions lie at multiples of 16 or so: what tells them apart is in the middle bits. */
static unsigned place_of(const void *real)
{
    return (unsigned)(((uintptr_t)real * UINT64_C(0x9e3779b97f4a7c15)) >> (64 - PLACE_BITS));
}

/* The first hook of an address keeps it, should a driver have two names for one function. */
static void put(void *real, void *hook)
{
    void *nothing = NULL;
    unsigned place = place_of(real);
    while (load(&places[place].real) != real) {
        void *taken = NULL;
        if (__atomic_compare_exchange_n(&places[place].real, &taken, real, 0, __ATOMIC_ACQ_REL, __ATOMIC_ACQUIRE) ||
            taken == real)
            break;
        place = (place + 1) % PLACE_COUNT;
    }
    __atomic_compare_exchange_n(&places[place].hook, &nothing, hook, 0, __ATOMIC_ACQ_REL, __ATOMIC_ACQUIRE);
}

static void put_all(void)
{
    for (size_t index = 0; index < HOOK_COUNT; index++) {
        void *real = fg_real(hooks[index].id);
        if (real != NULL)
            put(real, hooks[index].hook);
    }
    __atomic_store_n(&complete, 1, __ATOMIC_RELEASE);
}

void *fg_route(void *real)
{
    if (real == NULL)
        return NULL;
    if (!__atomic_load_n(&complete, __ATOMIC_ACQUIRE))
        put_all();
    for (unsigned place = place_of(real);; place = (place + 1) % PLACE_COUNT) {
        void *found = load(&places[place].real);
        if (found == real)
            return load(&places[place].hook);
        if (found == NULL)
            return real;
    }
}

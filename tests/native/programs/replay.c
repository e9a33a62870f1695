/*
 * replay: a CUDA program made of bytes. Reads operations of four bytes from standard input and answers each by a line
 * with the driver's result (-1: there was nothing to do).
 *
 *   254  N T 0   the next N operations at once, by T threads; each thread takes those whose place modulo T is its own
 *   255  0 0 0   give everything back
 *
 * With an argument it prints what size each number stands for instead.
 *
 * The program keeps to the rules of the API whatever the bytes are: it frees what it has, unmaps whole mappings, and
 * touches no object from two threads. So whatever goes wrong is the library's fault.
 */
#include <pthread.h>
#include <unistd.h>

#include "replay.h"

enum { BURST = 254, END = 255, BURST_MAX = 64, THREADS_MAX = 4 };

static operate_t *const operations[] = {
#define ENTRY(name, function) function,
    OPERATIONS(ENTRY)
#undef ENTRY
};

static handle_t context;

/* The large ones first: those of which no two share a granule. */
static const size_t sizes[] = {0, MIB + 1, 2 * MIB, 2 * MIB + 1, 3 * MIB, 31 * MIB, 32 * MIB, 33 * MIB, 64 * MIB,
                               100 * MIB, 128 * MIB, 300 * MIB, (size_t)1 << 40, (size_t)1 << 63, SIZE_MAX - 511,
                               SIZE_MAX, 1, 512, 4096, MIB / 2, MIB};
enum { SIZES = sizeof(sizes) / sizeof(sizes[0]) };

size_t size_of(unsigned char code)
{
    return sizes[code % SIZES];
}

static bool take(struct operation *operation)
{
    unsigned char *bytes = (unsigned char *)operation;
    for (size_t got = 0; got < sizeof(*operation);) {
        ssize_t count = read(0, bytes + got, sizeof(*operation) - got);
        if (count <= 0)
            return false;
        got += (size_t)count;
    }
    return true;
}

static int perform(const struct operation *operation)
{
    return operations[operation->code % (sizeof(operations) / sizeof(operations[0]))](operation);
}

struct share {
    const struct operation *operations;
    unsigned count, threads, index;
};

static void *run_share(void *argument)
{
    const struct share *share = argument;
    CHECK(cuCtxSetCurrent(context) == 0);
    for (unsigned at = 0; at < share->count; at++) {
        if (share->operations[at].place % PLACES % share->threads == share->index)
            perform(&share->operations[at]);
    }
    return NULL;
}

static void burst(unsigned count, unsigned threads)
{
    struct operation list[BURST_MAX];
    struct share shares[THREADS_MAX];
    pthread_t ids[THREADS_MAX];
    CHECK(count <= BURST_MAX && threads >= 1 && threads <= THREADS_MAX);
    for (unsigned at = 0; at < count; at++)
        CHECK(take(&list[at]));
    for (unsigned index = 0; index < threads; index++) {
        shares[index] = (struct share){list, count, threads, index};
        CHECK(pthread_create(&ids[index], NULL, run_share, &shares[index]) == 0);
    }
    for (unsigned index = 0; index < threads; index++)
        CHECK(pthread_join(ids[index], NULL) == 0);
}

static void end_all(void)
{
    end_plain();
    end_physical();
    end_pools();
    end_arrays();
    end_tiles();
}

int main(int count, char **arguments)
{
    (void)arguments;
    for (size_t index = 0; count > 1 && index < SIZES; index++)
        printf("%zu\n", sizes[index]);
    if (count > 1)
        return 0;
    struct operation operation;
    int ordinal;
    load_driver();
    CHECK(cuInit(0) == 0 && cuDeviceGet(&ordinal, 0) == 0);
    CHECK(cuDevicePrimaryCtxRetain(&context, ordinal) == 0 && cuCtxSetCurrent(context) == 0);
    for (int code = 0; ;) {
        printf("%d\n", code);
        fflush(stdout);
        code = 0;
        if (!take(&operation))
            return 0;
        if (operation.code == BURST)
            burst(operation.place, operation.size);
        else if (operation.code == END)
            end_all();
        else
            code = perform(&operation);
    }
}

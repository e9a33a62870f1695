/*
 * faults SYMBOL MODE DRIVER FAULTS STATE: what the hook of SYMBOL does when the driver's own function fails.
 *
 * DRIVER is the real libcuda.so.1, FAULTS the file that tells it which calls to spoil, STATE the account of GPU 0.
 *
 *   fail    with each code that a driver might answer: the program gets that code, nothing it passed is written to, the
 *           account and the device are what they were, and the call works once the fault is gone
 *   assist  the functions that a hook calls of its own accord fail, one after the other: whatever comes of it, what the
 *           device holds stays charged, and nothing is left at the end
 *   stall   the call takes its time inside the driver: other threads allocate, free and look as if it were not there
 *   kill    the process gets SIGKILL inside the driver
 *   all     no fault: the whole limit can be had
 *
 * Exit 0: it is so. 1: no, and stderr says where. 3: SYMBOL has no subject.
 */
#include <fcntl.h>
#include <pthread.h>
#include <time.h>
#include <unistd.h>

#include "../../../native/abi/fracgpu_abi.h"
#include "faults.h"

static const char *driver_path, *faults_path, *state_path;
static int (*driver_info)(size_t *, size_t *);
static size_t held_at_start;

static void spoil(const char *function, const char *what)
{
    char temporary[4096];
    snprintf(temporary, sizeof(temporary), "%s.new", faults_path);
    FILE *file = fopen(temporary, "w");
    CHECK(file != NULL);
    if (function != NULL)
        fprintf(file, "%s * %s\n", function, what);
    CHECK(fclose(file) == 0 && rename(temporary, faults_path) == 0);
}

struct account {
    uint64_t committed, pending, overhead, pool, managed, pinned;
};

static struct account account(void)
{
    struct fracgpu_slot slot;
    int descriptor = open(state_path, O_RDONLY);
    CHECK(descriptor >= 0);
    CHECK(pread(descriptor, &slot, sizeof(slot), FRACGPU_STATE_HEADER_BYTES) == sizeof(slot));
    close(descriptor);
    return (struct account){slot.committed_bytes, slot.pending_bytes, slot.overhead_bytes,
                            slot.pool_bytes,      slot.managed_bytes, slot.host_pinned_bytes};
}

static bool same(struct account one, struct account other)
{
    return memcmp(&one, &other, sizeof(one)) == 0;
}

static size_t held(void)
{
    size_t free_bytes, total;
    CHECK(driver_info(&free_bytes, &total) == 0);
    return total - free_bytes - held_at_start;
}

static void check_covered(void)
{
    size_t bytes = held();
    struct account now = account();
    if (now.committed < bytes)
        fprintf(stderr, "%zu bytes held, %zu charged\n", bytes, (size_t)now.committed);
    CHECK(now.committed >= bytes);
}

/* A pool that is about to be destroyed has been trimmed, which nobody can take back; the account knows. */
static void check_unchanged(struct account before, size_t held_before, bool trimmed)
{
    struct account now = account();
    size_t less = held_before - held();
    CHECK(less == 0 || trimmed);
    now.committed += less;
    now.pool += less;
    CHECK(same(now, before));
}

static void check_failing(const struct subject *subject)
{
    static const int codes[] = {1, 2, 3, 100, 101, 201, 400, 401, 700, 719, 801, 802, 900, 999};
    for (size_t index = 0; index < sizeof(codes) / sizeof(codes[0]); index++) {
        char what[32];
        struct account start = account();
        if (subject->prepare != NULL)
            subject->prepare();
        struct account before = account();
        size_t held_before = held();
        snprintf(what, sizeof(what), "fail %d", codes[index]);
        spoil(subject->symbol, what);
        CHECK(subject->call() == codes[index]);
        spoil(NULL, NULL);
        check_unchanged(before, held_before, strcmp(subject->symbol, "cuMemPoolDestroy") == 0);
        check_covered();
        CHECK(subject->call() == 0);
        check_covered();
        subject->undo();
        CHECK(same(account(), start) && held() == 0);
    }
}

static void check_assistants(const struct subject *subject)
{
    static const char *const assistants[] = {
#define CALL(name, parameters) #name,
#include "../../../native/interceptor/driver_calls.def"
#undef CALL
        "cuMemFree_v2", "cuMemRelease", "cuMemPoolTrimTo",
    };
    for (size_t index = 0; index < sizeof(assistants) / sizeof(assistants[0]); index++) {
        if (strcmp(assistants[index], subject->symbol) == 0)
            continue;
        if (subject->prepare != NULL)
            subject->prepare();
        spoil(assistants[index], "fail 999");
        int code = subject->call();
        spoil(NULL, NULL);
        check_covered();
        CHECK(code == 0 || subject->call() == 0);
        check_covered();
        subject->undo();
        /* Who waits for the GPU has what is not known yet found out. */
        CHECK(cuCtxSynchronize() == 0);
        struct account end = account();
        if (held() != 0 || end.committed != 0 || end.pending != 0)
            fprintf(stderr, "%s failed, %d: %zu bytes held, %zu charged\n", assistants[index], code, held(),
                    (size_t)end.committed);
        CHECK(held() == 0 && end.committed == 0 && end.pending == 0);
    }
}

static int stalled_code = -1;

static void *stalled_call(void *subject)
{
    use_device(0);
    __atomic_store_n(&stalled_code, ((const struct subject *)subject)->call(), __ATOMIC_RELEASE);
    return NULL;
}

static void check_stalling(const struct subject *subject)
{
    const struct timespec moment = {.tv_nsec = 20 * 1000 * 1000};
    pthread_t thread;
    uint64_t address = 0, pooled = 0, handle = 0;
    const struct allocation_prop on_device = {.type = 1, .location = {.type = 1, .id = 0}};
    size_t free_bytes, total;
    if (subject->prepare != NULL)
        subject->prepare();
    spoil(subject->symbol, "stall");
    CHECK(pthread_create(&thread, NULL, stalled_call, (void *)subject) == 0);
    nanosleep(&moment, NULL);
    for (int round = 0; round < 100; round++) {
        CHECK(cuMemGetInfo_v2(&free_bytes, &total) == 0);
        if (strcmp(subject->symbol, "cuMemAllocManaged") != 0)
            CHECK(cuMemAllocManaged(&address, BYTES, 1) == 0);
        else
            CHECK(cuMemAlloc_v2(&address, BYTES) == 0);
        if (strcmp(subject->symbol, "cuMemFree_v2") != 0)
            CHECK(cuMemFree_v2(address) == 0);
        if (strcmp(subject->symbol, "cuMemAllocAsync") != 0 && strcmp(subject->symbol, "cuMemFreeAsync") != 0)
            CHECK(cuMemAllocAsync(&pooled, BYTES, NULL) == 0 && cuMemFreeAsync(pooled, NULL) == 0);
        if (strcmp(subject->symbol, "cuMemCreate") != 0 && strcmp(subject->symbol, "cuMemRelease") != 0)
            CHECK(cuMemCreate(&handle, BYTES, &on_device, 0) == 0 && cuMemRelease(handle) == 0);
        check_covered();
    }
    CHECK(__atomic_load_n(&stalled_code, __ATOMIC_ACQUIRE) == -1);
    spoil(NULL, NULL);
    CHECK(pthread_join(thread, NULL) == 0 && stalled_code == 0);
    check_covered();
}

static void check_killing(const struct subject *subject)
{
    if (subject->prepare != NULL)
        subject->prepare();
    spoil(subject->symbol, "kill");
    subject->call();
}

static void check_everything_free(void)
{
    size_t free_bytes, total;
    uint64_t address;
    CHECK(cuMemGetInfo_v2(&free_bytes, &total) == 0 && free_bytes == total - account().overhead);
    CHECK(cuMemAlloc_v2(&address, free_bytes) == 0);
}

static const struct subject *find_subject(const char *symbol)
{
    static const struct subject *const lists[] = {memory_subjects, array_subjects, graph_subjects, context_subjects};
    for (size_t list = 0; list < sizeof(lists) / sizeof(lists[0]); list++) {
        for (const struct subject *subject = lists[list]; subject->symbol != NULL; subject++) {
            if (strcmp(subject->symbol, symbol) == 0)
                return subject;
        }
    }
    return NULL;
}

int main(int count, char **arguments)
{
    size_t free_bytes, total;
    CHECK(count == 6);
    driver_path = arguments[3], faults_path = arguments[4], state_path = arguments[5];
    spoil(NULL, NULL);
    load_driver();
    CHECK(cuInit(0) == 0);
    use_device(0);
    void *driver = dlopen(driver_path, RTLD_NOW | RTLD_NOLOAD);
    CHECK(driver != NULL);
    *(void **)&driver_info = dlsym(driver, "cuMemGetInfo_v2");
    CHECK(driver_info(&free_bytes, &total) == 0);
    held_at_start = total - free_bytes;
    const struct subject *subject = find_subject(arguments[1]);
    if (subject == NULL)
        return 3;
    if (strcmp(arguments[2], "fail") == 0)
        check_failing(subject);
    else if (strcmp(arguments[2], "assist") == 0)
        check_assistants(subject);
    else if (strcmp(arguments[2], "stall") == 0)
        check_stalling(subject);
    else if (strcmp(arguments[2], "all") == 0)
        check_everything_free();
    else
        check_killing(subject);
    return 0;
}

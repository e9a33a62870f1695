/*
 * Memory that another process has as well: charged once, to who made it, for as long as either has it.
 *
 * The other process is this program again. It does what it is told through a socket, on the library under test.
 */
#include <signal.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "behave.h"

enum { HELPER_SOCKET = 200, HELPER_FILE = 201 };
#define HELPER "BEHAVE_HELPER"

enum operation { IMPORT, RELEASE, OPEN, OPEN_V2, CLOSE, EXPORT_POOL };

struct order {
    enum operation operation;
    uint64_t value;
    struct ipc_handle handle;
};

static int helper;
static pid_t helper_pid;

/* A pool of this process: the descriptor is what it returns, one allocation's data is in the file. */
static uint64_t export_pool(void)
{
    struct pool_props props = {.type = 1, .handle_types = 1, .location = {.type = 1, .id = 0}};
    struct ipc_handle data;
    handle_t pool;
    uint64_t address, plain;
    int descriptor;
    CHECK(cuMemPoolCreate(&pool, &props) == 0 && cuMemAlloc_v2(&plain, 100 * MIB) == 0);
    CHECK(cuMemAllocFromPoolAsync(&address, 64 * MIB, pool, NULL) == 0);
    CHECK(cuMemPoolExportToShareableHandle(&descriptor, pool, 1, 0) == 0);
    CHECK(cuMemPoolExportPointer(&data, address) == 0);
    CHECK(pwrite(HELPER_FILE, &data, sizeof(data), 0) == sizeof(data));
    return (uint64_t)descriptor;
}

static uint64_t carry_out(const struct order *order, int descriptor)
{
    uint64_t result = 0;
    switch (order->operation) {
    case IMPORT:
        CHECK(cuMemImportFromShareableHandle(&result, (void *)(intptr_t)descriptor, 1) == 0);
        close(descriptor);
        break;
    case RELEASE:
        CHECK(cuMemRelease(order->value) == 0);
        break;
    case OPEN:
        CHECK(cuIpcOpenMemHandle(&result, order->handle, 1) == 0);
        break;
    case OPEN_V2:
        CHECK(cuIpcOpenMemHandle_v2(&result, order->handle, 1) == 0);
        break;
    case EXPORT_POOL:
        return export_pool();
    case CLOSE:
        CHECK(cuIpcCloseMemHandle(order->value) == 0);
        break;
    }
    return result;
}

/* One message with room for one descriptor. */
struct letter {
    struct iovec part;
    _Alignas(struct cmsghdr) char control[CMSG_SPACE(sizeof(int))];
    struct msghdr message;
};

static void prepare(struct letter *letter, struct order *order)
{
    memset(letter, 0, sizeof(*letter));
    letter->part = (struct iovec){order, sizeof(*order)};
    letter->message = (struct msghdr){.msg_iov = &letter->part, .msg_iovlen = 1};
    letter->message.msg_control = letter->control;
    letter->message.msg_controllen = sizeof(letter->control);
}

static __attribute__((constructor)) void be_the_helper(void)
{
    struct order order;
    struct letter letter;
    if (getenv(HELPER) == NULL)
        return;
    load_driver();
    CHECK(cuInit(0) == 0);
    use_device(0);
    for (prepare(&letter, &order); recvmsg(HELPER_SOCKET, &letter.message, 0) > 0; prepare(&letter, &order)) {
        int descriptor = -1;
        struct cmsghdr *files = CMSG_FIRSTHDR(&letter.message);
        if (files != NULL)
            memcpy(&descriptor, CMSG_DATA(files), sizeof(descriptor));
        uint64_t result = carry_out(&order, descriptor);
        CHECK(write(HELPER_SOCKET, &result, sizeof(result)) == sizeof(result));
    }
    _exit(0);
}

static void start_helper(void)
{
    int ends[2];
    CHECK(socketpair(AF_UNIX, SOCK_SEQPACKET, 0, ends) == 0);
    int file = (int)syscall(SYS_memfd_create, "behave", 0u);
    CHECK(file >= 0 && dup2(file, HELPER_FILE) == HELPER_FILE);
    pid_t child = fork();
    CHECK(child >= 0);
    if (child == 0) {
        CHECK(dup2(ends[1], HELPER_SOCKET) == HELPER_SOCKET && setenv(HELPER, "1", 1) == 0);
        close(ends[0]);
        close(ends[1]);
        execl("/proc/self/exe", "behave", (char *)NULL);
        _exit(9);
    }
    close(ends[1]);
    helper = ends[0];
    helper_pid = child;
}

static uint64_t tell(struct order order, int descriptor)
{
    uint64_t result;
    struct letter letter;
    prepare(&letter, &order);
    if (descriptor >= 0) {
        struct cmsghdr *files = CMSG_FIRSTHDR(&letter.message);
        files->cmsg_level = SOL_SOCKET;
        files->cmsg_type = SCM_RIGHTS;
        files->cmsg_len = CMSG_LEN(sizeof(int));
        memcpy(CMSG_DATA(files), &descriptor, sizeof(descriptor));
    } else {
        letter.message.msg_control = NULL;
        letter.message.msg_controllen = 0;
    }
    CHECK(sendmsg(helper, &letter.message, 0) == sizeof(order));
    CHECK(read(helper, &result, sizeof(result)) == sizeof(result));
    return result;
}

static const struct allocation_prop shareable = {.type = 1, .handle_types = 1, .location = {.type = 1, .id = 0}};

static void check_descriptor(void)
{
    uint64_t handle;
    int descriptor = -1;
    start_helper();
    CHECK(cuMemCreate(&handle, 64 * MIB, &shareable, 0) == 0);
    CHECK(cuMemExportToShareableHandle(&descriptor, handle, 1, 0) == 0 && charged() == 64 * MIB);
    uint64_t imported = tell((struct order){.operation = IMPORT}, descriptor);
    close(descriptor);
    /* Gone here, held there: still on the GPU. */
    CHECK(charged() == 64 * MIB && cuMemRelease(handle) == 0 && charged() == 64 * MIB);
    CHECK(shown_free() == limit - 64 * MIB);
    tell((struct order){.operation = RELEASE, .value = imported}, -1);
    CHECK(shown_free() == limit && charged() == 0);
}

void check_export(void) { check_descriptor(); }
void check_import(void) { check_descriptor(); }

static void check_handle(enum operation open)
{
    uint64_t address;
    struct order order = {.operation = open};
    start_helper();
    CHECK(cuMemAlloc_v2(&address, 64 * MIB) == 0);
    CHECK(cuIpcGetMemHandle(&order.handle, address) == 0 && charged() == 64 * MIB);
    uint64_t there = tell(order, -1);
    CHECK(tell(order, -1) == there);
    CHECK(cuMemFree_v2(address) == 0 && charged() == 64 * MIB);
    tell((struct order){.operation = CLOSE, .value = there}, -1);
    CHECK(shown_free() == limit - 64 * MIB);
    tell((struct order){.operation = CLOSE, .value = there}, -1);
    CHECK(shown_free() == limit && charged() == 0);
}

void check_ipc_get(void) { check_handle(OPEN_V2); }
void check_ipc_open_v1(void) { check_handle(OPEN); }
void check_ipc_open_v2(void) { check_handle(OPEN_V2); }
void check_ipc_close(void) { check_handle(OPEN_V2); }

/* ---- pools ---- */

static handle_t import_pool(int descriptor)
{
    handle_t pool;
    CHECK(cuMemPoolImportFromShareableHandle(&pool, (void *)(intptr_t)descriptor, 1, 0) == 0);
    return pool;
}

void check_pool_import(void)
{
    struct pool_props props = {.type = 1, .handle_types = 1, .location = {.type = 1, .id = 0}};
    handle_t pool;
    uint64_t address = SENTINEL;
    int descriptor;
    CHECK(cuMemPoolCreate(&pool, &props) == 0);
    CHECK(cuMemPoolExportToShareableHandle(&descriptor, pool, 1, 0) == 0);
    handle_t imported = import_pool(descriptor);
    /* Nothing can be allocated from it, and the attempt costs nothing. */
    CHECK(cuMemAllocFromPoolAsync(&address, 64 * MIB, imported, NULL) != 0 && address == SENTINEL);
    CHECK(charged() == 0 && shown_free() == limit);
    CHECK(cuMemPoolDestroy(imported) == 0 && charged() == 0);
}

/* The helper's pool, and its death: what was imported stays on the GPU and in the account. */
static void check_pool_pointer(void)
{
    struct ipc_handle data;
    uint64_t address;
    start_helper();
    int theirs = (int)tell((struct order){.operation = EXPORT_POOL}, -1);
    int process = (int)syscall(434 /* pidfd_open */, helper_pid, 0);
    int descriptor = (int)syscall(438 /* pidfd_getfd */, process, theirs, 0);
    CHECK(descriptor >= 0 && pread(HELPER_FILE, &data, sizeof(data), 0) == sizeof(data));
    handle_t pool = import_pool(descriptor);
    CHECK(cuMemPoolImportPointer(&address, pool, &data) == 0);
    CHECK(charged() == 0 && shown_free() == limit - 164 * MIB);
    CHECK(kill(helper_pid, SIGKILL) == 0 && waitpid(helper_pid, NULL, 0) == helper_pid);
    while (shown_free() == limit - 164 * MIB)
        usleep(1000);
    CHECK(shown_free() == limit - 64 * MIB);
    CHECK(cuMemFreeAsync(address, NULL) == 0 && cuMemFreeAsync(address, NULL) != 0);
    for (int waits = 0; waits < 1000 && shown_free() != limit; waits++)
        usleep(1000);
    CHECK(shown_free() == limit && charged() == 0);
}

void check_pool_export_pointer(void) { check_pool_pointer(); }
void check_pool_import_pointer(void) { check_pool_pointer(); }

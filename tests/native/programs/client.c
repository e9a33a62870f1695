/*
 * client COMMAND...: a CUDA program made of its arguments. Each command prints its name and what came of it.
 *
 *   init | device N | alloc MIB | pool MIB | free | info | total | nvml N
 *   ready       print, then wait for a line (or the end) of standard input
 *   fork        a child runs the remaining commands, printing `child` first; then the parent does
 *   exec        replace the program by itself with the remaining commands
 *   closeall    close every descriptor above 2
 *   kill        die by SIGKILL
 *   errno       check that hooked calls leave errno alone
 */
#include <errno.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include "driver_api.h"

static uint64_t last;

static void report_info(void)
{
    size_t free_bytes = SENTINEL, total = SENTINEL;
    int code = cuMemGetInfo_v2(&free_bytes, &total);
    if (code == 0)
        printf("info 0 %zu %zu\n", free_bytes / MIB, total / MIB);
    else
        printf("info %d%s\n", code, free_bytes == SENTINEL && total == SENTINEL ? "" : " touched");
}

static void report_total(int device)
{
    size_t total = SENTINEL;
    int code = cuDeviceTotalMem_v2(&total, device);
    if (code == 0)
        printf("total 0 %zu\n", total / MIB);
    else
        printf("total %d%s\n", code, total == SENTINEL ? "" : " touched");
}

static void report_nvml(unsigned index)
{
    void *library = dlopen("libnvidia-ml.so.1", RTLD_NOW);
    CHECK(library != NULL);
    int (*start)(void) = (int (*)(void))dlsym(library, "nvmlInit_v2");
    int (*get)(unsigned, handle_t *) = (int (*)(unsigned, handle_t *))dlsym(library, "nvmlDeviceGetHandleByIndex_v2");
    int (*info)(handle_t, unsigned long long *) =
        (int (*)(handle_t, unsigned long long *))dlsym(library, "nvmlDeviceGetMemoryInfo");
    handle_t device;
    CHECK(start() == 0 && get(index, &device) == 0);
    unsigned long long memory[3] = {SENTINEL, SENTINEL, SENTINEL};
    int code = info(device, memory);
    if (code == 0)
        printf("nvml 0 %llu %llu %llu\n", memory[0] / MIB, memory[2] / MIB, memory[1] / MIB);
    else
        printf("nvml %d%s\n", code, memory[0] == SENTINEL && memory[2] == SENTINEL ? "" : " touched");
}

static void wait_for_line(void)
{
    char byte;
    puts("ready");
    fflush(stdout);
    while (read(0, &byte, 1) == 1 && byte != '\n')
        continue;
}

static void in_child_first(void)
{
    int status;
    fflush(stdout);
    pid_t child = fork();
    CHECK(child >= 0);
    if (child == 0) {
        puts("child");
        return;
    }
    CHECK(waitpid(child, &status, 0) == child);
    printf("parent %d\n", status);
}

static void check_errno(void)
{
    uint64_t address;
    size_t free_bytes, total;
    errno = 77;
    cuMemAlloc_v2(&address, SIZE_MAX);
    CHECK(errno == 77);
    cuMemAlloc_v2(&address, MIB);
    cuMemGetInfo_v2(&free_bytes, &total);
    cuMemFree_v2(address);
    CHECK(errno == 77);
    puts("errno 0");
}

int main(int count, char **arguments)
{
    load_driver();
    setvbuf(stdout, NULL, _IOLBF, 0);
    for (int index = 1; index < count; index++) {
        const char *command = arguments[index];
        unsigned long number = index + 1 < count ? strtoul(arguments[index + 1], NULL, 10) : 0;
        if (strcmp(command, "init") == 0) {
            printf("init %d\n", cuInit(0));
        } else if (strcmp(command, "device") == 0) {
            use_device((int)number);
            index++;
        } else if (strcmp(command, "alloc") == 0 || strcmp(command, "pool") == 0) {
            uint64_t address = SENTINEL;
            int code = command[0] == 'a' ? cuMemAlloc_v2(&address, number * MIB)
                                         : cuMemAllocAsync(&address, number * MIB, NULL);
            printf("%s %d%s\n", command, code, code != 0 && address != SENTINEL ? " touched" : "");
            last = code == 0 ? address : last;
            index++;
        } else if (strcmp(command, "free") == 0) {
            printf("free %d\n", cuMemFree_v2(last));
        } else if (strcmp(command, "info") == 0) {
            report_info();
        } else if (strcmp(command, "total") == 0) {
            report_total((int)number);
            index++;
        } else if (strcmp(command, "nvml") == 0) {
            report_nvml((unsigned)number);
            index++;
        } else if (strcmp(command, "ready") == 0) {
            wait_for_line();
        } else if (strcmp(command, "fork") == 0) {
            in_child_first();
        } else if (strcmp(command, "exec") == 0) {
            arguments[index] = arguments[0];
            fflush(stdout);
            execv("/proc/self/exe", arguments + index);
            CHECK(!"exec");
        } else if (strcmp(command, "closeall") == 0) {
            for (int descriptor = 3; descriptor < 1024; descriptor++)
                close(descriptor);
        } else if (strcmp(command, "kill") == 0) {
            raise(SIGKILL);
        } else if (strcmp(command, "errno") == 0) {
            check_errno();
        } else {
            return 3;
        }
    }
    return 0;
}

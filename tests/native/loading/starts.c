/*
 * starts HOW: a CUDA program that takes 600 MiB of its slice, then starts itself again in the way HOW (vfork, spawn,
 * daemon); the other one asks for 500 and 300 MiB and prints what it got. Then the first prints whether it may
 * still have 400 MiB. `starts child` is the other one.
 */
#include <dlfcn.h>
#include <fcntl.h>
#include <spawn.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#define MIB ((size_t)1 << 20)

static int (*allocate)(uint64_t *, size_t);

static int begin(void)
{
    void *library = dlopen("libcuda.so.1", RTLD_NOW), *context = NULL;
    int device = 0;
    if (library == NULL)
        return 3;
    int (*init)(unsigned) = (int (*)(unsigned))dlsym(library, "cuInit");
    int (*retain)(void **, int) = (int (*)(void **, int))dlsym(library, "cuDevicePrimaryCtxRetain");
    int (*use)(void *) = (int (*)(void *))dlsym(library, "cuCtxSetCurrent");
    allocate = (int (*)(uint64_t *, size_t))dlsym(library, "cuMemAlloc_v2");
    int code = init(0);
    if (code == 0)
        code = retain(&context, device);
    return code == 0 ? use(context) : code;
}

static int take(size_t mib)
{
    uint64_t address = 0;
    return allocate(&address, mib * MIB);
}

static int child(void)
{
    printf("child %d", begin());
    printf(" %d", take(500));
    printf(" %d\n", take(300));
    fflush(stdout);
    return 0;
}

static pid_t start(const char *how)
{
    char *words[] = {(char *)"starts", (char *)"child", NULL};
    pid_t started = -1;
    if (strcmp(how, "vfork") == 0) {
        started = vfork();
        if (started == 0) {
            execve("/proc/self/exe", words, environ);
            _exit(9);
        }
    } else if (strcmp(how, "spawn") == 0) {
        posix_spawn(&started, "/proc/self/exe", NULL, NULL, words, environ);
    } else if (strcmp(how, "daemon") == 0) {
        started = fork();
        if (started == 0) {
            /* As daemon(3) does, and then closes all that is open, what its libraries opened too. */
            setsid();
            for (int descriptor = 3; descriptor < 4096; descriptor++)
                close(descriptor);
            execve("/proc/self/exe", words, environ);
            _exit(9);
        }
    }
    return started;
}

int main(int count, char **arguments)
{
    int status = -1;
    if (count != 2)
        return 2;
    if (strcmp(arguments[1], "child") == 0)
        return child();
    printf("parent %d", begin());
    printf(" %d\n", take(600));
    fflush(stdout);
    pid_t started = start(arguments[1]);
    if (started <= 0 || waitpid(started, &status, 0) != started)
        return 8;
    printf("ended %d\n", status);
    printf("parent %d\n", take(400));
    return 0;
}

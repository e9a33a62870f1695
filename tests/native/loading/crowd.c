/*
 * crowd COUNT: so many programs at once. All wait behind one pipe, then each starts CUDA and takes 1 MiB, says so, and
 * keeps it until its standard input ends. Prints how many got it, the seconds from the first to the last, and what
 * code one of the others got.
 */
#include <dlfcn.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>
#include <unistd.h>

static double now(void)
{
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return (double)time.tv_sec + (double)time.tv_nsec / 1e9;
}

static int work(void)
{
    uint64_t address = 0;
    void *library = dlopen("libcuda.so.1", RTLD_NOW), *context = NULL;
    if (library == NULL)
        return -3;
    int (*init)(unsigned) = (int (*)(unsigned))dlsym(library, "cuInit");
    int (*retain)(void **, int) = (int (*)(void **, int))dlsym(library, "cuDevicePrimaryCtxRetain");
    int (*use)(void *) = (int (*)(void *))dlsym(library, "cuCtxSetCurrent");
    int (*allocate)(uint64_t *, size_t) = (int (*)(uint64_t *, size_t))dlsym(library, "cuMemAlloc_v2");
    int code = init(0);
    if (code != 0)
        return code;
    if (retain(&context, 0) != 0 || use(context) != 0)
        return -5;
    return allocate(&address, (size_t)1 << 20);
}

int main(int count, char **arguments)
{
    int gate[2], answers[2], leave[2];
    int programs = count == 2 ? atoi(arguments[1]) : 0;
    char byte;
    if (programs <= 0 || pipe(gate) != 0 || pipe(answers) != 0 || pipe(leave) != 0)
        return 2;
    for (int index = 0; index < programs; index++) {
        if (fork() == 0) {
            close(gate[1]);
            close(leave[1]);
            if (read(gate[0], &byte, 1) == 0) {
                int code = work();
                if (write(answers[1], &code, sizeof(code)) == sizeof(code) && read(leave[0], &byte, 1) == 0)
                    _exit(0);
            }
            _exit(1);
        }
    }
    double began = now();
    int well = 0, other = 0;
    close(gate[1]);
    for (int index = 0; index < programs; index++) {
        int code = -1;
        if (read(answers[0], &code, sizeof(code)) == sizeof(code) && code == 0)
            well++;
        else
            other = code;
    }
    printf("%d %.6f %d\n", well, now() - began, other);
    fflush(stdout);
    return read(0, &byte, 1) == 0 ? 0 : 1;
}

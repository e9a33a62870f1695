/*
 * A program that is linked with the driver itself, the model in this case: there is no library to put anything in the
 * place of. Holds 100 MiB until it is ended. Called fracgpu-hold, as what the tests look for.
 */
#include <stddef.h>
#include <stdio.h>
#include <unistd.h>

int cuInit(unsigned flags);
int cuDevicePrimaryCtxRetain(void **context, int device);
int cuCtxSetCurrent(void *context);
int cuMemAlloc_v2(unsigned long long *address, size_t bytes);

int main(void)
{
    void *context = NULL;
    unsigned long long address = 0;
    int well = cuInit(0) == 0 && cuDevicePrimaryCtxRetain(&context, 0) == 0 && cuCtxSetCurrent(context) == 0 &&
               cuMemAlloc_v2(&address, (size_t)100 << 20) == 0;
    printf("{\"ready\": %s}\n", well ? "true" : "false");
    fflush(stdout);
    pause();
    return 0;
}

/*
 * own.c: a program that has functions and variables of the driver's names itself, as loaders like cuew make them.
 * Prints what they are; needs no driver.
 */
#include <stdio.h>

__attribute__((visibility("default"))) int (*cuInit)(unsigned);
__attribute__((visibility("default"))) int cuDriverGetVersion(int *version);

static int own_init(unsigned flags)
{
    return 40 + (int)flags;
}

int cuDriverGetVersion(int *version)
{
    *version = 7;
    return 0;
}

int main(void)
{
    int version = 0;
    cuInit = own_init;
    printf("%d %d\n", cuDriverGetVersion(&version) == 0 ? version : -1, cuInit(2));
    return 0;
}

/*
 * routing SHIM DRIVER SYMBOL...: for every way of asking cuGetProcAddress, is the shim's answer the hook of what the
 * driver answers, or the driver's answer itself where that is not hooked. Prints the number of answers that were hooks.
 */
#include "driver_api.h"

static const int versions[] = {0,     2000,  3010,  3020,  4000,  6000,  6050,  8000,  10000, 10010, 10020,
                               11000, 11020, 11030, 11040, 12000, 12020, 12040, 12080, 13000, 13050, 99999};

typedef int query(const char *, void **, int, uint64_t, int *);

int main(int count, char **arguments)
{
    CHECK(count > 3);
    void *shim = dlopen(arguments[1], RTLD_NOW | RTLD_LOCAL);
    void *driver = dlopen(arguments[2], RTLD_NOW | RTLD_LOCAL);
    CHECK(shim != NULL && driver != NULL && shim != driver);
    query *shims = (query *)dlsym(shim, "cuGetProcAddress_v2"), *drivers = (query *)dlsym(driver, "cuGetProcAddress_v2");
    CHECK(shims != NULL && drivers != NULL && shims != drivers);
    int hooked = 0;
    for (int symbol = 3; symbol < count; symbol++) {
        for (size_t index = 0; index < sizeof(versions) / sizeof(versions[0]); index++) {
            for (uint64_t flags = 0; flags < 4; flags++) {
                void *answer = (void *)(uintptr_t)SENTINEL, *real = answer;
                int status = -7, real_status = -7;
                int code = shims(arguments[symbol], &answer, versions[index], flags, &status);
                CHECK(code == drivers(arguments[symbol], &real, versions[index], flags, &real_status));
                CHECK(status == real_status);
                void *expected = real;
                for (int name = 3; name < count; name++) {
                    if (code == 0 && real != NULL && dlsym(driver, arguments[name]) == real)
                        expected = dlsym(shim, arguments[name]);
                }
                CHECK(answer == expected);
                hooked += answer != real;
            }
        }
    }
    printf("%d\n", hooked);
    return 0;
}

/*
 * routing SHIM DRIVER VERSION,... SYMBOL...: for every way of asking cuGetProcAddress for each SYMBOL, is the shim's
 * answer the hook of what the driver answers, or the driver's answer itself where that is not hooked? A hook is the
 * function of the shim that has the name of the driver's. Prints the number of answers that were hooks.
 */
#include "driver_api.h"

#define NAMES_MAX 2048
#define VERSIONS_MAX 128

typedef int query_v1(const char *, void **, int, uint64_t);
typedef int query_v2(const char *, void **, int, uint64_t, int *);

static struct {
    const char *name;
    void *in_shim, *in_driver;
} names[NAMES_MAX];
static int name_count;
static int versions[VERSIONS_MAX];
static int version_count;
static int hooked;

static void compare(const char *symbol, int code, int real_code, void *answer, void *real)
{
    CHECK(code == real_code);
    void *expected = real;
    for (int name = 0; code == 0 && real != NULL && name < name_count; name++) {
        if (names[name].in_driver == real)
            expected = names[name].in_shim;
    }
    if (answer != expected)
        fprintf(stderr, "%s: %p, not %p\n", symbol, answer, expected);
    CHECK(answer == expected);
    hooked += answer != real;
}

static void ask_v1(void *shim, void *driver, const char *symbol, int version, uint64_t flags)
{
    void *answer = (void *)(uintptr_t)SENTINEL, *real = answer;
    int code = ((query_v1 *)shim)(symbol, &answer, version, flags);
    compare(symbol, code, ((query_v1 *)driver)(symbol, &real, version, flags), answer, real);
}

static void ask_v2(void *shim, void *driver, const char *symbol, int version, uint64_t flags)
{
    void *answer = (void *)(uintptr_t)SENTINEL, *real = answer;
    int status = -7, real_status = -7;
    int code = ((query_v2 *)shim)(symbol, &answer, version, flags, &status);
    compare(symbol, code, ((query_v2 *)driver)(symbol, &real, version, flags, &real_status), answer, real);
    CHECK(status == real_status);
}

static void ask_everything(void *shim, void *driver, const char *spelling,
                           void (*ask)(void *, void *, const char *, int, uint64_t))
{
    void *shims = dlsym(shim, spelling), *drivers = dlsym(driver, spelling);
    CHECK(shims != NULL && shims != drivers);
    for (int name = 0; drivers != NULL && name < name_count; name++) {
        for (int version = 0; version < version_count; version++) {
            for (uint64_t flags = 0; flags < 4; flags++)
                ask(shims, drivers, names[name].name, versions[version], flags);
        }
    }
}

int main(int count, char **arguments)
{
    CHECK(count > 4 && count - 4 <= NAMES_MAX);
    /* First the driver, for all to see: what the shim answers must be its own all the same. */
    void *driver = dlopen(arguments[2], RTLD_NOW | RTLD_GLOBAL);
    void *shim = dlopen(arguments[1], RTLD_NOW | RTLD_LOCAL);
    CHECK(shim != NULL && driver != NULL && shim != driver);
    for (char *version = strtok(arguments[3], ","); version != NULL; version = strtok(NULL, ",")) {
        CHECK(version_count < VERSIONS_MAX);
        versions[version_count++] = atoi(version);
    }
    for (; name_count < count - 4; name_count++) {
        names[name_count].name = arguments[name_count + 4];
        names[name_count].in_shim = dlsym(shim, names[name_count].name);
        names[name_count].in_driver = dlsym(driver, names[name_count].name);
    }
    ask_everything(shim, driver, "cuGetProcAddress", ask_v1);
    ask_everything(shim, driver, "cuGetProcAddress_v2", ask_v2);
    ask_everything(shim, driver, "cuGetProcAddress_v2_ptsz", ask_v2);
    printf("%d\n", hooked);
    return 0;
}

/*
 * limiter_units: the limiter's parts one by one. Built with sanitizers by `make -C native sanitize`.
 *
 * Arguments: the name of a test, or --list, and a directory to make files in.
 */
#include "limiter_units.h"

const char *directory;

static const struct {
    const char *name;
    void (*run)(void);
} tests[] = {
#define ENTRY(name) {#name, test_##name},
    UNITS(ENTRY)
#undef ENTRY
};

int main(int count, char **arguments)
{
    CHECK(count == 3);
    directory = arguments[2];
    for (size_t index = 0; index < sizeof(tests) / sizeof(tests[0]); index++) {
        if (strcmp(arguments[1], "--list") == 0)
            puts(tests[index].name);
        if (strcmp(arguments[1], tests[index].name) == 0) {
            tests[index].run();
            return 0;
        }
    }
    return strcmp(arguments[1], "--list") == 0 ? 0 : 3;
}

/*
 * source_common.c: what both sources need.
 */
#include <string.h>

#include "source.h"

void fg_source_sort(struct fg_source_name *names, int count)
{
    for (int sorted = 1; sorted < count; sorted++) {
        struct fg_source_name moving = names[sorted];
        int place = sorted;
        for (; place > 0 && strcmp(names[place - 1].text, moving.text) > 0; place--)
            names[place] = names[place - 1];
        names[place] = moving;
    }
}

bool fg_path_join(char *path, size_t bytes, const char *first, const char *second, const char *third)
{
    const char *const parts[3] = {first, second, third};
    size_t used = 0;
    for (int index = 0; index < 3; index++) {
        size_t length = strlen(parts[index]);
        if (length >= bytes - used)
            return false;
        memcpy(path + used, parts[index], length + 1);
        used += length;
    }
    return true;
}

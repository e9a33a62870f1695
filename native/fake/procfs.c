/* procfs.c: readers of /proc/<pid>. */
#define _GNU_SOURCE
#include "procfs.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

static FILE *open_file(const char *pid, const char *name)
{
    char path[64];
    snprintf(path, sizeof path, "/proc/%.20s/%s", pid, name);
    return fopen(path, "re");
}

uint64_t procfs_start_time(const char *pid)
{
    char text[1024];
    FILE *file = open_file(pid, "stat");
    size_t length = file != NULL ? fread(text, 1, sizeof text - 1, file) : 0;
    if (file != NULL) {
        fclose(file);
    }
    text[length] = '\0';
    /* Field 2 is the program's name in parentheses and may hold anything: count fields behind its last one. */
    char *field = strrchr(text, ')');
    for (int i = 2; field != NULL && i < 22; i++) {
        field = strchr(field + 1, ' ');
    }
    return field != NULL ? strtoull(field, NULL, 10) : 0;
}

uint64_t procfs_pid_namespace(const char *pid)
{
    char path[64];
    struct stat st;
    snprintf(path, sizeof path, "/proc/%.20s/ns/pid", pid);
    return stat(path, &st) == 0 ? (uint64_t)st.st_ino : 0;
}

int procfs_innermost_pid(const char *pid)
{
    char line[256];
    int found = -1;
    FILE *file = open_file(pid, "status");
    while (file != NULL && fgets(line, sizeof line, file) != NULL) {
        /* One number for each namespace, from the one that this /proc belongs to inwards. */
        if (strncmp(line, "NSpid:", 6) == 0) {
            const char *last = strrchr(line, '\t');
            found = last != NULL ? atoi(last + 1) : -1;
        }
    }
    if (file != NULL) {
        fclose(file);
    }
    return found;
}

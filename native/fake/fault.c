/*
 * fault.c: calls that fail, take long, or are the last that a process makes, because a test says so.
 *
 * FRACGPU_FAKE_FAULTS names a file that is read at every call, so that it can be changed under running processes. Its
 * lines are  FUNCTION CALL ACTION [ARGUMENT] : the exported function; which of the process's calls of it, counted from
 * 1, or * for all; and
 *
 *   fail CODE      it answers CODE and does nothing
 *   stall MS       it does its work MS milliseconds late; without MS when the line is taken out of the file
 *   kill           the process gets SIGKILL
 */
#define _GNU_SOURCE
#include "driver.h"

#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

enum { FILE_BYTES = 4096, WORD_BYTES = 64, FUNCTION_COUNT = 1024 };

struct rule {
    char function[WORD_BYTES], call[WORD_BYTES], action[WORD_BYTES];
    int argument;                         /* -1: none */
};

static pthread_mutex_t counting = PTHREAD_MUTEX_INITIALIZER;
static struct { const char *function; unsigned long calls; } counted[FUNCTION_COUNT];

/* A function's name is one string for as long as the library is there: it is told by its address. */
static unsigned long count_call(const char *function)
{
    unsigned long calls = 0;
    pthread_mutex_lock(&counting);
    for (int i = 0; i < FUNCTION_COUNT; i++) {
        if (counted[i].function == NULL || counted[i].function == function) {
            counted[i].function = function;
            calls = ++counted[i].calls;
            break;
        }
    }
    pthread_mutex_unlock(&counting);
    return calls;
}

static bool read_rules(const char *path, char text[FILE_BYTES])
{
    int descriptor = open(path, O_RDONLY | O_CLOEXEC);
    ssize_t length = descriptor < 0 ? -1 : read(descriptor, text, FILE_BYTES - 1);
    if (descriptor >= 0) {
        close(descriptor);
    }
    text[length > 0 ? length : 0] = '\0';
    return length > 0;
}

static bool applies(const struct rule *rule, const char *function, unsigned long call)
{
    return strcmp(rule->function, function) == 0 &&
           (strcmp(rule->call, "*") == 0 || strtoul(rule->call, NULL, 10) == call);
}

/* The first line that is about this call. */
static bool find_rule(const char *path, const char *function, unsigned long call, struct rule *rule)
{
    char text[FILE_BYTES];
    char *rest = text;
    if (!read_rules(path, text)) {
        return false;
    }
    for (char *line = strsep(&rest, "\n"); line != NULL; line = strsep(&rest, "\n")) {
        rule->argument = -1;
        if (sscanf(line, "%63s %63s %63s %d", rule->function, rule->call, rule->action, &rule->argument) >= 3 &&
            applies(rule, function, call)) {
            return true;
        }
    }
    return false;
}

static void stall(const char *path, const char *function, unsigned long call, const struct rule *rule)
{
    const struct timespec moment = { .tv_nsec = 1000 * 1000 };
    struct rule now;
    if (rule->argument >= 0) {
        const struct timespec wait = { rule->argument / 1000, rule->argument % 1000 * 1000000L };
        nanosleep(&wait, NULL);
        return;
    }
    while (find_rule(path, function, call, &now) && strcmp(now.action, "stall") == 0) {
        nanosleep(&moment, NULL);
    }
}

CUresult fault_at(const char *function)
{
    struct rule rule;
    const char *path = getenv("FRACGPU_FAKE_FAULTS");
    if (path == NULL) {
        return CUDA_SUCCESS;
    }
    unsigned long call = count_call(function);
    if (!find_rule(path, function, call, &rule)) {
        return CUDA_SUCCESS;
    }
    if (strcmp(rule.action, "kill") == 0) {
        kill(getpid(), SIGKILL);
    }
    if (strcmp(rule.action, "stall") == 0) {
        stall(path, function, call, &rule);
    }
    return strcmp(rule.action, "fail") == 0 ? rule.argument : CUDA_SUCCESS;
}

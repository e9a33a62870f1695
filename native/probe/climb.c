/*
 * fracgpu-climb <libcudart path | driver> <step MiB> [--hold]
 *
 * Allocates device memory in steps until the GPU refuses, like a program whose appetite grows. One JSON object a line:
 *   {"event": "step", "step": 3, "allocated_bytes": ...}                           after every step
 *   {"event": "refused", "api": "runtime", "code": 2, "name": "...", "allocated_bytes": ..., "free_bytes": ...,
 *    "total_bytes": ...}                                                           at the end
 * With --hold it then keeps what it has until SIGTERM or SIGINT. "driver" allocates through libcuda itself.
 *
 * Exit: 0 the end was "out of memory"; 1 another error ended it; 2 usage; 3 a library could not be used.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "json.h"
#include "memory_api.h"

struct step {
    struct step *previous;
    void *pointer;
};

static struct step *climb(size_t bytes, size_t *allocated, int *code)
{
    struct step *top = NULL;
    *allocated = 0;
    for (int number = 1;; number++) {
        struct step *step = calloc(1, sizeof *step);
        if (step == NULL) {
            abort();
        }
        *code = memory_allocate(&step->pointer, bytes);
        if (*code != 0) {
            free(step);
            return top;
        }
        step->previous = top;
        top = step;
        *allocated += bytes;
        printf("{\"event\": \"step\", \"step\": %d, \"allocated_bytes\": %zu}", number, *allocated);
        json_end_line();
    }
}

static void release(struct step *top)
{
    while (top != NULL) {
        struct step *previous = top->previous;
        memory_release(top->pointer);
        free(top);
        top = previous;
    }
}

static void report(int code, size_t allocated)
{
    size_t free_bytes = 0, total_bytes = 0;
    int asked = memory_info(&free_bytes, &total_bytes);
    printf("{\"event\": \"refused\", \"api\": \"%s\", \"code\": %d, \"name\": ", memory_api_name(), code);
    json_text(memory_error_name(code));
    printf(", \"allocated_bytes\": %zu", allocated);
    if (asked == 0) {
        printf(", \"free_bytes\": %zu, \"total_bytes\": %zu}", free_bytes, total_bytes);
    } else {
        printf(", \"free_bytes\": null, \"total_bytes\": null}");
    }
    json_end_line();
}

int main(int argc, char **argv)
{
    bool hold = argc == 4 && strcmp(argv[3], "--hold") == 0;
    size_t bytes = argc >= 3 ? parse_mib(argv[2]) : 0;
    if ((argc != 3 && !hold) || bytes == 0) {
        fprintf(stderr, "usage: fracgpu-climb <libcudart path | driver> <step MiB> [--hold]\n");
        return EXIT_USAGE;
    }
    stop_prepare();
    if (!memory_api_open(argv[1])) {
        return EXIT_NO_LIBRARY;
    }
    size_t allocated;
    int code;
    struct step *top = climb(bytes, &allocated, &code);
    report(code, allocated);
    if (hold) {
        stop_wait();
    }
    release(top);
    return code == PROBE_OUT_OF_MEMORY ? EXIT_FINE : EXIT_REFUSED;
}

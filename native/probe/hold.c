/*
 * fracgpu-hold <libcudart path | driver> <MiB>
 *
 * Allocates once, prints {"ready": true, "pid": ..., "allocated_bytes": ...} and keeps it until SIGTERM or SIGINT, then
 * frees it. When the allocation is refused: {"ready": false, "code": ..., "name": "..."}.
 *
 * Exit: 0 held and freed; 1 refused; 2 usage; 3 a library could not be used.
 */
#include <stdio.h>
#include <unistd.h>

#include "json.h"
#include "memory_api.h"

int main(int argc, char **argv)
{
    size_t bytes = argc == 3 ? parse_mib(argv[2]) : 0;
    if (bytes == 0) {
        fprintf(stderr, "usage: fracgpu-hold <libcudart path | driver> <MiB>\n");
        return EXIT_USAGE;
    }
    stop_prepare();
    if (!memory_api_open(argv[1])) {
        return EXIT_NO_LIBRARY;
    }
    void *pointer = NULL;
    int code = memory_allocate(&pointer, bytes);
    if (code != 0) {
        printf("{\"ready\": false, \"code\": %d, \"name\": ", code);
        json_text(memory_error_name(code));
        putchar('}');
        json_end_line();
        return EXIT_REFUSED;
    }
    printf("{\"ready\": true, \"pid\": %d, \"allocated_bytes\": %zu}", (int)getpid(), bytes);
    json_end_line();
    stop_wait();
    return memory_release(pointer) == 0 ? EXIT_FINE : EXIT_REFUSED;
}

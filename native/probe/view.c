/*
 * fracgpu-view
 *
 * What a program sees of its GPUs, as one JSON object on one line:
 *   {"cuda": {"library": path, "status": CUresult of cuInit, "devices": [{"ordinal", "uuid", "name", "free_bytes",
 *             "total_bytes", "device_total_bytes"}]},
 *    "nvml": {"library": path, "status": nvmlReturn_t of nvmlInit, "devices": [{"index", "uuid", "name",
 *             "v1": {"total_bytes", "free_bytes", "used_bytes"}, "v2": {... "reserved_bytes"},
 *             "processes": [{"pid", "used_bytes"}]}]}}
 * A library that can not be loaded is {"error": text}; a number that an API refused is null.
 *
 * Exit: 0 both libraries were loaded; 2 usage; 3 one was not.
 */
#define _GNU_SOURCE
#include "view.h"

#include <dlfcn.h>
#include <stdio.h>

#include "json.h"
#include "memory_api.h"

void view_library(void *function)
{
    Dl_info where;
    printf("\"library\": ");
    json_text(dladdr(function, &where) != 0 ? where.dli_fname : NULL);
}

void view_loader_error(void)
{
    printf("{\"error\": ");
    json_text(dlerror());
    putchar('}');
}

int main(int argc, char **argv)
{
    (void)argv;
    if (argc != 1) {
        fprintf(stderr, "usage: fracgpu-view\n");
        return EXIT_USAGE;
    }
    printf("{\"cuda\": ");
    bool cuda = view_cuda();
    printf(", \"nvml\": ");
    bool nvml = view_nvml();
    putchar('}');
    json_end_line();
    return cuda && nvml ? EXIT_FINE : EXIT_NO_LIBRARY;
}

/* view.h: the two halves of fracgpu-view; each prints one JSON object and says whether its library answered. */
#ifndef PROBE_VIEW_H
#define PROBE_VIEW_H

#include <stdbool.h>

bool view_cuda(void);
bool view_nvml(void);
/* Print "library": the file that a function was loaded from. */
void view_library(void *function);
/* Print "error": why the loader gave up. */
void view_loader_error(void);

#endif /* PROBE_VIEW_H */

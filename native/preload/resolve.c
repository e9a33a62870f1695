/*
 * resolve.c: where a stub leads, found when it is called for the first time.
 *
 * It leads into the shim that is mounted in the driver's place, and through it to the driver: limits are kept in one
 * place only, however a process comes to have that shim. Nothing here needs the C library: dlopen and dlsym are weak, so
 * that loading this library brings no other one into processes that have no use for it.
 */
#include <stddef.h>

/* glibc's, by hand: built without a C library, there are no headers of one. */
void *dlopen(const char *path, int flags) __attribute__((weak));
void *dlsym(void *library, const char *name) __attribute__((weak));
int *__errno_location(void) __attribute__((weak));
enum { RTLD_LAZY_LOCAL = 1 };

/* Mounted there in every container with a claim, whatever its distribution (kubeletplugin/prepare/edits.py). */
#define SHIM "/usr/lib64/libcuda.so.1"

enum { NOT_FOUND = 500, SYSTEM_NOT_READY = 802 };

extern void *fracgpu_preload_slots[];
void *fracgpu_preload_resolve(unsigned index);

/* Names by index, one behind the other: an array of pointers would have to be relocated in every process. */
static const char names[] =
#include "names.inc"
    ;

static void *shim;

static int answer_not_found(void)
{
    return NOT_FOUND;
}

static int answer_not_ready(void)
{
    return SYSTEM_NOT_READY;
}

static const char *name_of(unsigned index)
{
    const char *name = names;
    for (; index > 0; index--) {
        while (*name != '\0')
            name++;
        name++;
    }
    return name;
}

static void *look_up(unsigned index)
{
    void *library = __atomic_load_n(&shim, __ATOMIC_ACQUIRE);
    /* C libraries before glibc 2.34 have both in a library of its own, which a program may lack. */
    if (dlopen == NULL || dlsym == NULL)
        return (void *)answer_not_ready;
    if (library == NULL) {
        library = dlopen(SHIM, RTLD_LAZY_LOCAL);
        __atomic_store_n(&shim, library, __ATOMIC_RELEASE);
    }
    if (library == NULL)
        return (void *)answer_not_ready;
    void *found = dlsym(library, name_of(index));
    if (found == NULL)
        found = (void *)answer_not_found;
    __atomic_store_n(&fracgpu_preload_slots[index], found, __ATOMIC_RELEASE);
    return found;
}

void *fracgpu_preload_resolve(unsigned index)
{
    int saved = __errno_location != NULL ? *__errno_location() : 0;
    void *found = look_up(index);
    if (__errno_location != NULL)
        *__errno_location() = saved;
    return found;
}

/*
 * visible.c: which GPUs of the machine this process may use.
 *
 * The driver lets a process use a GPU whose device node the process can open, and talks to nobody who cannot open the
 * control node; a container's share of a machine is made of nothing else. The model has no kernel module behind its
 * nodes, so what open() says up to the point where it would reach one is all there is to know, and it is enough:
 * permission bits, `nodev` mounts and the devices cgroup are asked first. Measured on Linux 6.18: a node that nobody
 * serves gives ENXIO, bits and `nodev` give EACCES, the devices cgroup (version 1 and a program of version 2) EPERM.
 */
#define _GNU_SOURCE
#include "machine.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

/* 0, or why the driver cannot be reached through this node, as an errno. */
static int node_error(const char *directory, const char *name)
{
    char path[PATH_MAX];
    struct stat st;
    int length = snprintf(path, sizeof path, "%s/%s", directory, name);
    if (length < 0 || (size_t)length >= sizeof path) {
        return ENAMETOOLONG;
    }
    if (stat(path, &st) != 0) {
        return errno;
    }
    if (!S_ISCHR(st.st_mode)) {
        return ENOENT;
    }
    int fd = open(path, O_RDWR | O_CLOEXEC | O_NOCTTY | O_NONBLOCK);
    if (fd >= 0) {
        close(fd);
        return 0;
    }
    return errno == ENXIO || errno == ENODEV ? 0 : errno;
}

int machine_control_error(void)
{
    const char *directory = getenv("FRACGPU_FAKE_DEVICES");
    return directory != NULL ? node_error(directory, "nvidiactl") : 0;
}

static bool has_node(const char *directory, uint32_t minor)
{
    char name[32];
    snprintf(name, sizeof name, "nvidia%u", minor);
    return node_error(directory, name) == 0;
}

static bool minor_listed(const char *list, uint32_t minor)
{
    for (const char *p = list; *p != '\0';) {
        char *end;
        unsigned long value = strtoul(p, &end, 10);
        if (end == p) {
            return false;
        }
        if (value == minor) {
            return true;
        }
        p = *end == ',' ? end + 1 : end;
    }
    return false;
}

int machine_visible(const struct machine *machine, int indices[FAKE_GPU_COUNT_MAX])
{
    const char *list = getenv("FRACGPU_FAKE_VISIBLE");
    const char *directory = getenv("FRACGPU_FAKE_DEVICES");
    int count = 0;
    if (machine_control_error() != 0) {
        return 0;
    }
    for (int i = 0; i < machine->gpu_count; i++) {
        uint32_t minor = machine->gpus[i].minor;
        if ((list == NULL || minor_listed(list, minor)) && (directory == NULL || has_node(directory, minor))) {
            indices[count++] = i;
        }
    }
    return count;
}

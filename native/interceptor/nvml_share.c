/*
 * nvml_share.c: see nvml_share.h.
 */
#include "nvml_share.h"

#include <string.h>
#include <sys/stat.h>

#include "../limiter/amount.h"
#include "../limiter/feedback.h"
#include "../limiter/region.h"
#include "real.h"
#include "source.h"
#include "uuid.h"

#define PROCESSES_BYTES (FG_SLOTS_MAX * sizeof(struct fg_nvml_process))

enum { ALL_CORES_PERCENT = 100 };

/* One allocation that is being added to a share. */
struct adding {
    const struct fg_page *page;
    struct fg_nvml_processes *processes;
    uint64_t used_bytes;
};

static struct fg_nvml_process *entry_of(struct fg_nvml_processes *processes, uint32_t pid)
{
    for (uint32_t index = 0; index < processes->count; index++) {
        if (processes->entries[index].pid == pid)
            return &processes->entries[index];
    }
    if (processes->count == FG_SLOTS_MAX)
        return NULL;
    struct fg_nvml_process *added = &processes->entries[processes->count++];
    *added = (struct fg_nvml_process){.pid = pid};
    return added;
}

/* A process has a slot in the state file of each allocation. One that holds nothing has no context, and so the driver
 * would not list it either. */
static void add_slot(void *context, const struct fracgpu_slot *slot, uint32_t index)
{
    struct adding *adding = context;
    struct fg_nvml_processes *processes = adding->processes;
    uint64_t used = fg_amount(slot->committed_bytes) + fg_amount(slot->overhead_bytes);
    adding->used_bytes += used;
    if (processes == NULL || used == 0 || slot->pid_namespace_inode != processes->pid_namespace_inode)
        return;
    struct fg_nvml_process *process = entry_of(processes, (uint32_t)slot->pid);
    struct fg_slot_feedback feedback;
    if (process == NULL)
        return;
    process->used_bytes = fg_add(process->used_bytes, used);
    if (fg_feedback_slot(adding->page, index, slot->generation, &feedback)) {
        process->sm_bp += feedback.sm_bp;
        process->memory_bp += feedback.memory_bp;
    }
}

static void add_measurement(const struct fg_page *page, struct fg_nvml_share *share)
{
    struct fg_device_feedback feedback;
    uint32_t cores = __atomic_load_n(&page->config->cores_percent, __ATOMIC_RELAXED);
    uint32_t view = __atomic_load_n(&page->config->utilization_view, __ATOMIC_RELAXED);
    if (cores == 0 || cores > ALL_CORES_PERCENT)
        cores = ALL_CORES_PERCENT;
    share->cores_percent = (uint32_t)fg_min(share->cores_percent + cores, ALL_CORES_PERCENT);
    share->of_device |= view == FRACGPU_UTILIZATION_DEVICE;
    if (!fg_feedback_device(page, &feedback) || !feedback.utilization_measured) {
        share->measured = false;
        return;
    }
    share->sm_bp += feedback.own_utilization_bp;
    share->memory_bp += feedback.own_memory_utilization_bp;
    if (feedback.published_ns > share->measured_ns)
        share->measured_ns = feedback.published_ns;
}

/* Add one allocation to the share, if it is of this GPU. False when its state can not be read. */
static bool add_allocation(const struct fg_source_name *name, const uint8_t uuid[16], struct fg_nvml_share *share,
                           struct fg_nvml_processes *processes, bool *found)
{
    struct fg_page page;
    struct fracgpu_config storage;
    char path[FG_PATH_BYTES];
    /* Left out, as the CUDA shim does: a GPU that no valid page covers shows an error instead of numbers. */
    if (fg_source_open(name, &page, &storage) != FG_OK)
        return true;
    bool readable = true;
    if (memcmp(page.config->device_uuid, uuid, 16) == 0) {
        struct fg_limits limits = fg_page_limits(&page);
        struct adding adding = {.page = &page, .processes = processes};
        readable = fg_source_state_path(name, path, sizeof(path)) &&
                   fg_usage_each(path, uuid, add_slot, &adding) == FG_OK;
        share->view.limit = fg_add(share->view.limit, limits.memory_bytes);
        share->view.used = fg_add(share->view.used, adding.used_bytes);
        share->view.limited &= limits.limited;
        add_measurement(&page, share);
        *found = true;
    }
    fg_page_close(&page);
    return readable;
}

bool fg_nvml_uuid(const char *text, uint8_t uuid[16])
{
    return fg_uuid_parse(text, strnlen(text, NVML_DEVICE_UUID_V2_BUFFER_SIZE), uuid);
}

static nvmlReturn_t share_of(nvmlDevice_t device, struct fg_nvml_share *share, struct fg_nvml_processes *processes)
{
    char text[NVML_DEVICE_UUID_V2_BUFFER_SIZE];
    uint8_t uuid[16];
    struct fg_source_name names[FG_MEMBERS_MAX];
    bool found = false;
    nvmlReturn_t code = FG_CALL(nvmlDeviceGetUUID, device, text, sizeof(text));
    if (code != NVML_SUCCESS)
        return code;
    if (!fg_nvml_uuid(text, uuid))
        return NVML_ERROR_UNKNOWN;
    *share = (struct fg_nvml_share){.view = {.limited = true}, .measured = true};
    int count = fg_source_names(names);
    for (int index = 0; index < count; index++) {
        if (!add_allocation(&names[index], uuid, share, processes, &found))
            return NVML_ERROR_UNKNOWN;
    }
    return found ? NVML_SUCCESS : NVML_ERROR_UNKNOWN;
}

nvmlReturn_t fg_nvml_share(nvmlDevice_t device, struct fg_nvml_share *share)
{
    return share_of(device, share, NULL);
}

nvmlReturn_t fg_nvml_share_processes(nvmlDevice_t device, struct fg_nvml_share *share,
                                     struct fg_nvml_processes *processes)
{
    struct stat pid_namespace;
    *processes = (struct fg_nvml_processes){.entries = fg_region_private(PROCESSES_BYTES)};
    if (processes->entries == NULL)
        return NVML_ERROR_MEMORY;
    if (stat("/proc/self/ns/pid", &pid_namespace) == 0)
        processes->pid_namespace_inode = (uint64_t)pid_namespace.st_ino;
    nvmlReturn_t code = share_of(device, share, processes);
    if (code != NVML_SUCCESS)
        fg_nvml_processes_end(processes);
    return code;
}

void fg_nvml_processes_end(struct fg_nvml_processes *processes)
{
    fg_region_free(processes->entries, PROCESSES_BYTES);
    processes->entries = NULL;
}

const struct fg_nvml_process *fg_nvml_find(const struct fg_nvml_processes *processes, uint32_t pid)
{
    for (uint32_t index = 0; index < processes->count; index++) {
        if (processes->entries[index].pid == pid)
            return &processes->entries[index];
    }
    return NULL;
}

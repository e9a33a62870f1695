/* How busy NVML says a GPU is. No host publishes here what is this container's own: "not supported", never the device's. */
#include <sys/stat.h>
#include <unistd.h>

#include "behave_nvml.h"

static handle_t working_device(void)
{
    uint64_t address;
    handle_t device = nvml_device(0);
    CHECK(cuMemAlloc_v2(&address, 64 * MIB) == 0);
    driver_sees_work();
    return device;
}

void check_utilization(void)
{
    int (*get)(handle_t, unsigned *) = nvml("nvmlDeviceGetUtilizationRates");
    handle_t device = working_device();
    unsigned rates[2] = {SENTINEL, SENTINEL};
    CHECK(get(device, rates) == NOT_SUPPORTED && rates[0] == SENTINEL && rates[1] == SENTINEL);
    CHECK(get(device, NULL) == INVALID_ARGUMENT && get(NULL, rates) == INVALID_ARGUMENT);
}

void check_pstates(void)
{
    int (*get)(handle_t, unsigned *) = nvml("nvmlDeviceGetDynamicPstatesInfo");
    handle_t device = working_device();
    unsigned pstates[33] = {SENTINEL};
    CHECK(get(device, pstates) == NOT_SUPPORTED && pstates[0] == SENTINEL);
    CHECK(get(device, NULL) == INVALID_ARGUMENT);
}

void check_samples(void)
{
    int (*get)(handle_t, unsigned, unsigned long long, unsigned *, unsigned *, void *) = nvml("nvmlDeviceGetSamples");
    handle_t device = working_device();
    unsigned type = SENTINEL, count = SENTINEL;
    for (unsigned kind = 1; kind < 5; kind++)
        CHECK(get(device, kind, 0, &type, &count, NULL) == NOT_SUPPORTED && type == SENTINEL && count == SENTINEL);
    CHECK(get(device, 1, 0, NULL, &count, NULL) == INVALID_ARGUMENT);
    CHECK(get(device, 1, 0, &type, NULL, NULL) == INVALID_ARGUMENT);
    CHECK(get(NULL, 1, 0, &type, &count, NULL) == INVALID_ARGUMENT);
}

void check_process_utilization(void)
{
    int (*get)(handle_t, void *, unsigned *, unsigned long long) = nvml("nvmlDeviceGetProcessUtilization");
    handle_t device = working_device();
    unsigned count = 0;
    CHECK(get(device, NULL, &count, 0) == NOT_SUPPORTED && count == 0);
    CHECK(get(device, NULL, NULL, 0) == INVALID_ARGUMENT);
    CHECK(get(NULL, NULL, &count, 0) == INVALID_ARGUMENT);
}

void check_processes_utilization(void)
{
    struct {
        unsigned version, count;
        unsigned long long last_seen;
        void *processes;
    } info = {.version = sizeof(info) | 1 << 24};
    int (*get)(handle_t, void *) = nvml("nvmlDeviceGetProcessesUtilizationInfo");
    handle_t device = working_device();
    CHECK(get(device, &info) == NOT_SUPPORTED && info.count == 0);
    CHECK(get(device, NULL) == INVALID_ARGUMENT);
    info.version++;
    CHECK(get(device, &info) == VERSION_MISMATCH);
}

/* Accounts are kept, and this process has one. Until it holds memory it is none of the container's. */
static handle_t accounted_device(void)
{
    handle_t device = nvml_device(0);
    driver_keeps_accounts();
    return device;
}

/* The ids here are the driver's: what it says of them is about this container's processes. */
static bool has_host_ids(void)
{
    struct stat pid_namespace;
    CHECK(stat("/proc/self/ns/pid", &pid_namespace) == 0);
    return pid_namespace.st_ino == 0xeffffffc;
}

void check_accounting_pids(void)
{
    int (*get)(handle_t, unsigned *, unsigned *) = nvml("nvmlDeviceGetAccountingPids");
    unsigned count = 0, pids[4];
    uint64_t address;
    CHECK(get(nvml_device(0), &count, NULL) == NOT_SUPPORTED);
    handle_t device = accounted_device();
    CHECK(get(device, &count, NULL) == 0 && count == 0);
    CHECK(get(device, NULL, NULL) == INVALID_ARGUMENT);
    CHECK(cuMemAlloc_v2(&address, 64 * MIB) == 0);
    count = 4;
    CHECK(get(device, &count, pids) == 0 && count == has_host_ids());
    CHECK(count == 0 || pids[0] == (unsigned)getpid());
}

struct accounting_stats {
    unsigned gpu, memory;
    unsigned long long max_memory, time, start;
    unsigned running, reserved[5];
};

void check_accounting_stats(void)
{
    int (*get)(handle_t, unsigned, struct accounting_stats *) = nvml("nvmlDeviceGetAccountingStats");
    struct accounting_stats stats = {.running = SENTINEL};
    uint64_t address;
    CHECK(get(nvml_device(0), (unsigned)getpid(), &stats) == NOT_SUPPORTED);
    handle_t device = accounted_device();
    CHECK(get(device, (unsigned)getpid(), &stats) == NOT_FOUND && stats.running == SENTINEL);
    CHECK(get(device, (unsigned)getpid(), NULL) == INVALID_ARGUMENT);
    CHECK(cuMemAlloc_v2(&address, 64 * MIB) == 0);
    CHECK(get(device, (unsigned)getpid(), &stats) == (has_host_ids() ? 0 : NOT_FOUND));
    CHECK(stats.running == (has_host_ids() ? 1 : SENTINEL));
}

void check_accounting_stats_v2(void)
{
    struct stats {
        unsigned pid, running, gpu, memory;
        unsigned long long max_memory;
        unsigned samples;
        unsigned long long sums[2], time, start;
    } stats = {.pid = (unsigned)getpid(), .running = SENTINEL};
    int (*get)(handle_t, struct stats *) = nvml("nvmlDeviceGetAccountingStats_v2");
    uint64_t address;
    handle_t device = accounted_device();
    CHECK(get(device, &stats) == NOT_FOUND && stats.running == SENTINEL);
    CHECK(get(device, NULL) == INVALID_ARGUMENT);
    CHECK(cuMemAlloc_v2(&address, 64 * MIB) == 0);
    CHECK(get(device, &stats) == (has_host_ids() ? 0 : NOT_FOUND));
}

/* Nobody's own figures: withheld whatever the arguments are, and not touched. */
static void check_withheld(const char *name)
{
    int (*get)(handle_t, unsigned *, unsigned *, unsigned *) = nvml(name);
    handle_t device = nvml_device(0);
    unsigned values[3] = {SENTINEL, SENTINEL, SENTINEL};
    CHECK(get(device, &values[0], &values[1], &values[2]) == NOT_SUPPORTED);
    CHECK(values[0] == SENTINEL && values[1] == SENTINEL && values[2] == SENTINEL);
    CHECK(get(NULL, &values[0], &values[1], &values[2]) == INVALID_ARGUMENT);
}

void check_encoder(void) { check_withheld("nvmlDeviceGetEncoderUtilization"); }
void check_decoder(void) { check_withheld("nvmlDeviceGetDecoderUtilization"); }
void check_jpeg(void) { check_withheld("nvmlDeviceGetJpgUtilization"); }
void check_flow(void) { check_withheld("nvmlDeviceGetOfaUtilization"); }
void check_encoder_stats(void) { check_withheld("nvmlDeviceGetEncoderStats"); }
void check_encoder_sessions(void) { check_withheld("nvmlDeviceGetEncoderSessions"); }
void check_capture_stats(void) { check_withheld("nvmlDeviceGetFBCStats"); }
void check_capture_sessions(void) { check_withheld("nvmlDeviceGetFBCSessions"); }
void check_metrics_sample(void) { check_withheld("nvmlGpmSampleGet"); }

void check_metrics_support(void)
{
    int (*get)(handle_t, unsigned *) = nvml("nvmlGpmQueryDeviceSupport");
    handle_t device = nvml_device(0);
    unsigned support[2] = {1, SENTINEL};
    CHECK(get(device, support) == 0 && support[1] == 0);
    support[0] = 9;
    CHECK(get(device, support) == VERSION_MISMATCH);
    CHECK(get(device, NULL) == INVALID_ARGUMENT);
}

/*
 * nvml_usage.c: how busy a device is, and who keeps it so.
 *
 * The model has no time: its processes are as busy as the machine file says, which tests write. What they share adds up
 * to no more than 100 percent, and every sample is the last one.
 */
#define _GNU_SOURCE
#include "nvml.h"

#include <time.h>

#define PERCENT_MAX 100u
#define SAMPLE_PERIOD_US 166667u
#define BAR1_PER_PROCESS (UINT64_C(2) << 20)
#define ACCOUNTING_BUFFER 4000u

uint64_t nvml_time_us(void)
{
    struct timespec ts;
    clock_gettime(CLOCK_REALTIME, &ts);
    return (uint64_t)ts.tv_sec * 1000000 + (uint64_t)ts.tv_nsec / 1000;
}

static uint64_t last_sample_us(void)
{
    return nvml_time_us() / SAMPLE_PERIOD_US * SAMPLE_PERIOD_US;
}

/* All processes count, also those that this one may not know of. */
static nvmlUtilization busy(nvmlDevice device)
{
    struct machine_process processes[FAKE_SLOT_COUNT];
    int count = machine_processes(&nvml_machine, device->gpu, processes, FAKE_SLOT_COUNT);
    unsigned sm = 0, memory = 0;
    for (int i = 0; i < count; i++) {
        sm += processes[i].sm_percent;
        memory += processes[i].memory_percent;
    }
    return (nvmlUtilization){ sm < PERCENT_MAX ? sm : PERCENT_MAX, memory < PERCENT_MAX ? memory : PERCENT_MAX };
}

NVML_NUMBER(nvmlDeviceGetUtilizationRates, nvmlUtilization, busy(device))
NVML_NUMBER(nvmlDeviceGetAccountingBufferSize, unsigned, ACCOUNTING_BUFFER)

#define ENGINE(function, percent) \
    NVMLAPI nvmlReturn function(nvmlDevice device, unsigned *out, unsigned *period_us) \
    { \
        NVML_TRY(nvml_check(device)); \
        NVML_OUT(out); \
        NVML_OUT(period_us); \
        *out = (percent); \
        *period_us = SAMPLE_PERIOD_US; \
        return NVML_SUCCESS; \
    }

ENGINE(nvmlDeviceGetEncoderUtilization, __atomic_load_n(&device->hw->encoder_percent, __ATOMIC_RELAXED))
ENGINE(nvmlDeviceGetDecoderUtilization, __atomic_load_n(&device->hw->decoder_percent, __ATOMIC_RELAXED))
ENGINE(nvmlDeviceGetJpgUtilization, 0)
ENGINE(nvmlDeviceGetOfaUtilization, 0)

NVMLAPI nvmlReturn nvmlDeviceGetEncoderStats(nvmlDevice device, unsigned *sessions, unsigned *fps, unsigned *latency_us)
{
    NVML_TRY(nvml_check(device));
    NVML_OUT(sessions);
    NVML_OUT(fps);
    NVML_OUT(latency_us);
    *sessions = *fps = *latency_us = 0;
    return NVML_SUCCESS;
}

/* Nobody encodes or captures frames. */
static nvmlReturn no_sessions(nvmlDevice device, unsigned *count)
{
    NVML_TRY(nvml_check(device));
    NVML_OUT(count);
    *count = 0;
    return NVML_SUCCESS;
}

NVMLAPI nvmlReturn nvmlDeviceGetEncoderSessions(nvmlDevice device, unsigned *count, void *sessions)
{
    (void)sessions;
    return no_sessions(device, count);
}

NVMLAPI nvmlReturn nvmlDeviceGetFBCSessions(nvmlDevice device, unsigned *count, void *sessions)
{
    (void)sessions;
    return no_sessions(device, count);
}

NVML_NUMBER(nvmlDeviceGetFBCStats, nvmlFbcStats, ((nvmlFbcStats){ 0, 0, 0 }))

NVMLAPI nvmlReturn nvmlDeviceGetDynamicPstatesInfo(nvmlDevice device, nvmlDynamicPstates *out)
{
    NVML_TRY(nvml_check(device));
    NVML_OUT(out);
    nvmlUtilization rates = busy(device);
    *out = (nvmlDynamicPstates){ .flags = 0 };
    out->domains[0].present = out->domains[1].present = out->domains[2].present = 1;
    out->domains[0].percent = rates.gpu;
    out->domains[1].percent = rates.memory;
    out->domains[2].percent = __atomic_load_n(&device->hw->encoder_percent, __ATOMIC_RELAXED);
    return NVML_SUCCESS;
}

/* The known processes that have been busy. */
static unsigned busy_processes(nvmlDevice device, struct machine_process processes[FAKE_SLOT_COUNT])
{
    unsigned known = nvml_processes(device, processes), kept = 0;
    for (unsigned i = 0; i < known; i++) {
        if (processes[i].sm_percent != 0 || processes[i].memory_percent != 0) {
            processes[kept++] = processes[i];
        }
    }
    return kept;
}

NVMLAPI nvmlReturn nvmlDeviceGetProcessUtilization(nvmlDevice device, nvmlProcessUtilizationSample *out,
                                                   unsigned *count, unsigned long long last_seen_us)
{
    NVML_TRY(nvml_check(device));
    NVML_OUT(count);
    struct machine_process processes[FAKE_SLOT_COUNT];
    uint64_t now = last_sample_us();
    unsigned room = *count, found = now > last_seen_us ? busy_processes(device, processes) : 0;
    NVML_REQUIRE(found != 0, NVML_ERROR_NOT_FOUND);
    *count = found;
    NVML_REQUIRE(out != NULL && found <= room, NVML_ERROR_INSUFFICIENT_SIZE);
    for (unsigned i = 0; i < found; i++) {
        out[i] = (nvmlProcessUtilizationSample){ (unsigned)processes[i].pid, now, processes[i].sm_percent,
                                                 processes[i].memory_percent, 0, 0 };
    }
    return NVML_SUCCESS;
}

NVMLAPI nvmlReturn nvmlDeviceGetProcessesUtilizationInfo(nvmlDevice device, nvmlProcessesUtilizationInfo_v1 *out)
{
    NVML_TRY(nvml_check(device));
    NVML_OUT(out);
    NVML_REQUIRE(out->version == NVML_PROCESSES_UTILIZATION_V1, NVML_ERROR_ARGUMENT_VERSION_MISMATCH);
    struct machine_process processes[FAKE_SLOT_COUNT];
    uint64_t now = last_sample_us();
    unsigned room = out->count, found = now > out->last_seen_us ? busy_processes(device, processes) : 0;
    NVML_REQUIRE(found != 0, NVML_ERROR_NOT_FOUND);
    out->count = found;
    NVML_REQUIRE(out->processes != NULL && found <= room, NVML_ERROR_INSUFFICIENT_SIZE);
    for (unsigned i = 0; i < found; i++) {
        out->processes[i] = (nvmlProcessUtilizationInfo_v1){
            .time_us = now, .pid = (unsigned)processes[i].pid, .sm = processes[i].sm_percent,
            .memory = processes[i].memory_percent };
    }
    return NVML_SUCCESS;
}

/* Numbered as nvmlSamplingType_t. Power and clocks are not modelled. */
enum { SAMPLES_GPU = 1, SAMPLES_MEMORY = 2, SAMPLES_ENCODER = 3, SAMPLES_DECODER = 4, SAMPLES_JPEG = 8, SAMPLES_FLOW = 9 };

static int sampled_percent(nvmlDevice device, unsigned type)
{
    switch (type) {
    case SAMPLES_GPU:
        return (int)busy(device).gpu;
    case SAMPLES_MEMORY:
        return (int)busy(device).memory;
    case SAMPLES_ENCODER:
        return (int)device->hw->encoder_percent;
    case SAMPLES_DECODER:
        return (int)device->hw->decoder_percent;
    case SAMPLES_JPEG:
    case SAMPLES_FLOW:
        return 0;
    default:
        return -1;
    }
}

NVMLAPI nvmlReturn nvmlDeviceGetSamples(nvmlDevice device, unsigned type, unsigned long long last_seen_us,
                                        unsigned *value_type, unsigned *count, nvmlSample *samples)
{
    NVML_TRY(nvml_check(device));
    NVML_OUT(value_type);
    NVML_OUT(count);
    NVML_REQUIRE(samples == NULL || *count != 0, NVML_ERROR_INVALID_ARGUMENT);
    int percent = sampled_percent(device, type);
    NVML_REQUIRE(percent >= 0, NVML_ERROR_NOT_SUPPORTED);
    uint64_t now = last_sample_us();
    NVML_REQUIRE(now > last_seen_us, NVML_ERROR_NOT_FOUND);
    *value_type = NVML_VALUE_UNSIGNED;
    *count = 1;
    if (samples != NULL) {
        samples[0] = (nvmlSample){ now, { .number = (unsigned)percent } };
    }
    return NVML_SUCCESS;
}

NVMLAPI nvmlReturn nvmlDeviceGetAccountingPids(nvmlDevice device, unsigned *count, unsigned *pids)
{
    NVML_TRY(nvml_check(device));
    NVML_OUT(count);
    NVML_REQUIRE(device->hw->accounting_mode != 0, NVML_ERROR_NOT_SUPPORTED);
    struct machine_process processes[FAKE_SLOT_COUNT];
    unsigned room = *count;
    *count = nvml_processes(device, processes);
    NVML_REQUIRE(pids != NULL && *count <= room, NVML_ERROR_INSUFFICIENT_SIZE);
    for (unsigned i = 0; i < *count; i++) {
        pids[i] = (unsigned)processes[i].pid;
    }
    return NVML_SUCCESS;
}

NVMLAPI nvmlReturn nvmlDeviceGetAccountingStats(nvmlDevice device, unsigned pid, nvmlAccountingStats *out)
{
    NVML_TRY(nvml_check(device));
    NVML_OUT(out);
    NVML_REQUIRE(device->hw->accounting_mode != 0, NVML_ERROR_NOT_SUPPORTED);
    struct machine_process processes[FAKE_SLOT_COUNT];
    unsigned known = nvml_processes(device, processes);
    for (unsigned i = 0; i < known; i++) {
        if ((unsigned)processes[i].pid == pid) {
            *out = (nvmlAccountingStats){ .gpu = processes[i].sm_percent, .memory = processes[i].memory_percent,
                                          .max_memory = processes[i].used_bytes, .running = 1 };
            return NVML_SUCCESS;
        }
    }
    return NVML_ERROR_NOT_FOUND;
}

/* Newer than the modelled drivers, and there for what it would show of other processes. */
NVMLAPI nvmlReturn nvmlDeviceGetAccountingStats_v2(nvmlDevice device, nvmlAccountingStats_v2 *out)
{
    nvmlAccountingStats stats;
    NVML_OUT(out);
    NVML_TRY(nvmlDeviceGetAccountingStats(device, out->pid, &stats));
    *out = (nvmlAccountingStats_v2){ .pid = out->pid, .running = stats.running, .gpu = stats.gpu,
                                     .memory = stats.memory, .max_memory = stats.max_memory };
    return NVML_SUCCESS;
}

/* What is mapped for the processor: something for each process, of a window as large as the memory. */
NVMLAPI nvmlReturn nvmlDeviceGetBAR1MemoryInfo(nvmlDevice device, nvmlBar1Memory *out)
{
    NVML_TRY(nvml_check(device));
    NVML_OUT(out);
    struct machine_process processes[FAKE_SLOT_COUNT];
    int count = machine_processes(&nvml_machine, device->gpu, processes, FAKE_SLOT_COUNT);
    uint64_t total = UINT64_C(1) << 20;
    while (total < device->hw->memory_bytes) {
        total <<= 1;
    }
    uint64_t used = (uint64_t)count * BAR1_PER_PROCESS;
    *out = (nvmlBar1Memory){ .total = total, .free = total - used, .used = used };
    return NVML_SUCCESS;
}

/* Metrics of a GPU's parts: samples can be taken, of a card that has them. */
NVMLAPI nvmlReturn nvmlGpmQueryDeviceSupport(nvmlDevice device, nvmlGpmSupport *out)
{
    NVML_TRY(nvml_check(device));
    NVML_OUT(out);
    NVML_REQUIRE(out->version == NVML_GPM_SUPPORT_VERSION, NVML_ERROR_ARGUMENT_VERSION_MISMATCH);
    out->supported = device->hw->compute_major >= 9;
    return NVML_SUCCESS;
}

NVMLAPI nvmlReturn nvmlGpmSampleGet(nvmlDevice device, void *sample)
{
    NVML_TRY(nvml_check(device));
    NVML_OUT(sample);
    return NVML_SUCCESS;
}

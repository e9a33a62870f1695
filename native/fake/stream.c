/* stream.c: streams and events. Work completes before the call that submits it returns; the bookkeeping is left. */
#define _GNU_SOURCE
#include "driver.h"

#include <stdlib.h>
#include <time.h>

#define STREAM_LEGACY ((CUstream)1)
#define STREAM_PER_THREAD ((CUstream)2)
#define STREAM_FLAGS 1u                   /* CU_STREAM_NON_BLOCKING */
#define EVENT_FLAGS 7u
#define EVENT_DISABLE_TIMING 2u
#define PRIORITY_GREATEST (-5)

struct fake_stream {
    CUstream next;
    CUcontext context;
    unsigned flags;
    int priority;
    uint64_t id;
};

struct fake_event {
    CUevent next;
    CUcontext context;
    unsigned flags;
    int64_t recorded_ns;                  /* 0: never */
};

static CUstream streams;
static CUevent events;
static uint64_t last_id = 2;
static _Thread_local int capture_mode;

static bool special(CUstream stream)
{
    return stream == NULL || stream == STREAM_LEGACY || stream == STREAM_PER_THREAD;
}

static CUstream *stream_link(CUstream stream)
{
    CUstream *link = &streams;
    while (*link != NULL && *link != stream) {
        link = &(*link)->next;
    }
    return link;
}

static CUevent *event_link(CUevent event)
{
    CUevent *link = &events;
    while (*link != NULL && *link != event) {
        link = &(*link)->next;
    }
    return link;
}

static CUresult stream_context(CUstream stream, CUcontext *context)
{
    if (special(stream)) {
        return context_current(context);
    }
    REQUIRE(*stream_link(stream) != NULL, CUDA_ERROR_INVALID_HANDLE);
    REQUIRE(stream->context->alive, CUDA_ERROR_CONTEXT_IS_DESTROYED);
    *context = stream->context;
    return CUDA_SUCCESS;
}

CUresult stream_device(CUstream stream, int *ordinal)
{
    CUcontext context;
    TRY(stream_context(stream, &context));
    *ordinal = context->device;
    return CUDA_SUCCESS;
}

static CUresult stream_create(CUstream *out, unsigned flags, int priority)
{
    NOT_NULL(out);
    REQUIRE((flags & ~STREAM_FLAGS) == 0, CUDA_ERROR_INVALID_VALUE);
    CUcontext context;
    TRY(context_current(&context));
    CUstream stream = calloc(1, sizeof *stream);
    REQUIRE(stream != NULL, CUDA_ERROR_OUT_OF_MEMORY);
    priority = priority > 0 ? 0 : priority < PRIORITY_GREATEST ? PRIORITY_GREATEST : priority;
    *stream = (struct fake_stream){ streams, context, flags, priority, ++last_id };
    streams = stream;
    *out = stream;
    return CUDA_SUCCESS;
}

static CUresult stream_destroy(CUstream stream)
{
    REQUIRE(!special(stream), CUDA_ERROR_INVALID_HANDLE);
    CUstream *link = stream_link(stream);
    REQUIRE(*link != NULL, CUDA_ERROR_INVALID_HANDLE);
    *link = stream->next;
    free(stream);
    return CUDA_SUCCESS;
}

CUAPI CUresult cuStreamCreate(CUstream *out, unsigned flags) { DRIVER_CALL(stream_create(out, flags, 0)); }
CUAPI CUresult cuStreamCreateWithPriority(CUstream *out, unsigned flags, int priority)
{
    DRIVER_CALL(stream_create(out, flags, priority));
}
CUAPI CUresult cuStreamDestroy(CUstream stream) { DRIVER_CALL(stream_destroy(stream)); }
CUAPI CUresult cuStreamDestroy_v2(CUstream stream) { DRIVER_CALL(stream_destroy(stream)); }

STREAM_API(cuStreamSynchronize, _ptsz, (CUstream stream), (stream))
{
    CUcontext context;
    TRY(stream_context(stream, &context));
    pools_synchronize();
    return CUDA_SUCCESS;
}

STREAM_API(cuStreamQuery, _ptsz, (CUstream stream), (stream))
{
    CUcontext context;
    return stream_context(stream, &context);
}

STREAM_API(cuStreamGetFlags, _ptsz, (CUstream stream, unsigned *flags), (stream, flags))
{
    NOT_NULL(flags);
    CUcontext context;
    TRY(stream_context(stream, &context));
    *flags = special(stream) ? 0 : stream->flags;
    return CUDA_SUCCESS;
}

STREAM_API(cuStreamGetPriority, _ptsz, (CUstream stream, int *priority), (stream, priority))
{
    NOT_NULL(priority);
    CUcontext context;
    TRY(stream_context(stream, &context));
    *priority = special(stream) ? 0 : stream->priority;
    return CUDA_SUCCESS;
}

STREAM_API(cuStreamGetId, _ptsz, (CUstream stream, unsigned long long *id), (stream, id))
{
    NOT_NULL(id);
    CUcontext context;
    TRY(stream_context(stream, &context));
    *id = special(stream) ? (unsigned long long)(uintptr_t)stream : stream->id;
    return CUDA_SUCCESS;
}

STREAM_API(cuStreamGetDevice, _ptsz, (CUstream stream, CUdevice *device), (stream, device))
{
    NOT_NULL(device);
    return stream_device(stream, device);
}

STREAM_API(cuStreamGetCtx, _ptsz, (CUstream stream, CUcontext *context), (stream, context))
{
    NOT_NULL(context);
    return stream_context(stream, context);
}

/* Nothing can be captured in the model, so every stream answers that it is not capturing. */
static CUresult not_capturing(CUstream stream, int *status)
{
    NOT_NULL(status);
    CUcontext context;
    TRY(stream_context(stream, &context));
    *status = 0;
    return CUDA_SUCCESS;
}

STREAM_API(cuStreamIsCapturing, _ptsz, (CUstream stream, int *status), (stream, status))
{
    return not_capturing(stream, status);
}

STREAM_API(cuStreamGetCaptureInfo, _ptsz, (CUstream stream, int *status, uint64_t *id), (stream, status, id))
{
    (void)id;
    return not_capturing(stream, status);
}

STREAM_API(cuStreamGetCaptureInfo_v2, _ptsz,
           (CUstream stream, int *status, uint64_t *id, void **graph, const void **dependencies, size_t *count),
           (stream, status, id, graph, dependencies, count))
{
    (void)id, (void)graph, (void)dependencies, (void)count;
    return not_capturing(stream, status);
}

STREAM_API(cuStreamGetCaptureInfo_v3, _ptsz,
           (CUstream stream, int *status, uint64_t *id, void **graph, const void **dependencies, const void **edges,
            size_t *count),
           (stream, status, id, graph, dependencies, edges, count))
{
    (void)id, (void)graph, (void)dependencies, (void)edges, (void)count;
    return not_capturing(stream, status);
}

static CUresult exchange_capture_mode(int *mode)
{
    NOT_NULL(mode);
    REQUIRE(*mode >= 0 && *mode <= 2, CUDA_ERROR_INVALID_VALUE);
    int previous = capture_mode;
    capture_mode = *mode;
    *mode = previous;
    return CUDA_SUCCESS;
}

CUAPI CUresult cuThreadExchangeStreamCaptureMode(int *mode) { DRIVER_CALL(exchange_capture_mode(mode)); }

static CUresult check_stream(CUstream stream)
{
    CUcontext context;
    DRIVER_CALL(stream_context(stream, &context));
}

/* Host functions may not call CUDA, but may wait for a thread that does: they run without the lock. */
static CUresult launch_host(CUstream stream, void (*function)(void *), void *data)
{
    NOT_NULL(function);
    TRY(check_stream(stream));
    function(data);
    return CUDA_SUCCESS;
}

CUAPI CUresult cuLaunchHostFunc(CUstream s, void (*f)(void *), void *data) { return launch_host(s, f, data); }
CUAPI CUresult cuLaunchHostFunc_ptsz(CUstream s, void (*f)(void *), void *data) { return launch_host(s, f, data); }

static int64_t now_ns(void)
{
    struct timespec ts;
    clock_gettime(CLOCK_MONOTONIC, &ts);
    return (int64_t)ts.tv_sec * 1000000000 + ts.tv_nsec;
}

static CUresult event_known(CUevent event)
{
    REQUIRE(event != NULL && *event_link(event) != NULL, CUDA_ERROR_INVALID_HANDLE);
    REQUIRE(event->context->alive, CUDA_ERROR_CONTEXT_IS_DESTROYED);
    return CUDA_SUCCESS;
}

static CUresult event_create(CUevent *out, unsigned flags)
{
    NOT_NULL(out);
    REQUIRE((flags & ~EVENT_FLAGS) == 0, CUDA_ERROR_INVALID_VALUE);
    CUcontext context;
    TRY(context_current(&context));
    CUevent event = calloc(1, sizeof *event);
    REQUIRE(event != NULL, CUDA_ERROR_OUT_OF_MEMORY);
    *event = (struct fake_event){ events, context, flags, 0 };
    events = event;
    *out = event;
    return CUDA_SUCCESS;
}

static CUresult event_destroy(CUevent event)
{
    REQUIRE(event != NULL && *event_link(event) != NULL, CUDA_ERROR_INVALID_HANDLE);
    *event_link(event) = event->next;
    free(event);
    return CUDA_SUCCESS;
}

static CUresult event_elapsed(float *milliseconds, CUevent start, CUevent end)
{
    NOT_NULL(milliseconds);
    TRY(event_known(start));
    TRY(event_known(end));
    REQUIRE(((start->flags | end->flags) & EVENT_DISABLE_TIMING) == 0, CUDA_ERROR_INVALID_HANDLE);
    REQUIRE(start->recorded_ns != 0 && end->recorded_ns != 0, CUDA_ERROR_INVALID_HANDLE);
    *milliseconds = (float)((double)(end->recorded_ns - start->recorded_ns) / 1e6);
    return CUDA_SUCCESS;
}

static CUresult event_synchronize(CUevent event)
{
    TRY(event_known(event));
    pools_synchronize();
    return CUDA_SUCCESS;
}

CUAPI CUresult cuEventCreate(CUevent *out, unsigned flags) { DRIVER_CALL(event_create(out, flags)); }
CUAPI CUresult cuEventDestroy(CUevent event) { DRIVER_CALL(event_destroy(event)); }
CUAPI CUresult cuEventDestroy_v2(CUevent event) { DRIVER_CALL(event_destroy(event)); }
CUAPI CUresult cuEventQuery(CUevent event) { DRIVER_CALL(event_known(event)); }
CUAPI CUresult cuEventSynchronize(CUevent event) { DRIVER_CALL(event_synchronize(event)); }
CUAPI CUresult cuEventElapsedTime(float *ms, CUevent a, CUevent b) { DRIVER_CALL(event_elapsed(ms, a, b)); }
CUAPI CUresult cuEventElapsedTime_v2(float *ms, CUevent a, CUevent b) { DRIVER_CALL(event_elapsed(ms, a, b)); }

static CUresult event_record(CUevent event, CUstream stream)
{
    CUcontext context;
    TRY(event_known(event));
    TRY(stream_context(stream, &context));
    REQUIRE(context == event->context, CUDA_ERROR_INVALID_HANDLE);
    event->recorded_ns = now_ns();
    return CUDA_SUCCESS;
}

STREAM_API(cuEventRecord, _ptsz, (CUevent event, CUstream stream), (event, stream))
{
    return event_record(event, stream);
}

STREAM_API(cuEventRecordWithFlags, _ptsz, (CUevent event, CUstream stream, unsigned flags), (event, stream, flags))
{
    REQUIRE(flags <= 1, CUDA_ERROR_INVALID_VALUE);
    return event_record(event, stream);
}

STREAM_API(cuStreamWaitEvent, _ptsz, (CUstream stream, CUevent event, unsigned flags), (stream, event, flags))
{
    CUcontext context;
    REQUIRE(flags <= 1, CUDA_ERROR_INVALID_VALUE);
    TRY(event_known(event));
    return stream_context(stream, &context);
}

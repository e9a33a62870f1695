/* stream.c: streams and events. Work completes before the call that submits it returns; the bookkeeping is left. */
#define _GNU_SOURCE
#include "capture.h"

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
    struct capture_state capture;
};

struct fake_event {
    CUevent next;
    CUcontext context;
    unsigned flags;
    int64_t recorded_ns;                  /* 0: never */
    struct capture_state capture;
};

static CUstream streams;
static CUevent events;
static uint64_t last_id = 2;
static CUstream own_streams;              /* what the threads' default streams take part in */
static _Thread_local CUstream own_stream;

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

/* A thread's default stream, as far as captures go. Never given back: others may look at it. */
static CUstream own(void)
{
    if (own_stream == NULL && (own_stream = calloc(1, sizeof *own_stream)) != NULL) {
        own_stream->next = own_streams;
        own_streams = own_stream;
    }
    return own_stream;
}

CUstream stream_object(CUstream stream)
{
    bool mine = stream == STREAM_PER_THREAD || (stream == NULL && driver_per_thread);
    return mine ? own() : stream == STREAM_LEGACY ? NULL : stream;
}

struct capture_state *stream_capture(CUstream stream)
{
    CUstream object = stream_object(stream);
    return object == NULL ? NULL : &object->capture;
}

uint64_t stream_key(CUstream stream)
{
    return (uint64_t)(uintptr_t)stream_object(stream);
}

bool stream_blocking(CUstream stream)
{
    return (stream->flags & STREAM_FLAGS) == 0;
}

CUcontext stream_owner(CUstream stream)
{
    return stream->context;
}

CUstream stream_next(CUstream stream)
{
    CUstream next = stream == NULL ? streams : stream->next;
    bool ends = next == NULL && (stream == NULL || stream->id != 0);
    return ends ? own_streams : next;
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
    *stream = (struct fake_stream){ streams, context, flags, priority, ++last_id, { 0 } };
    streams = stream;
    *out = stream;
    return CUDA_SUCCESS;
}

static CUresult stream_destroy(CUstream stream)
{
    REQUIRE(!special(stream), CUDA_ERROR_INVALID_HANDLE);
    CUstream *link = stream_link(stream);
    REQUIRE(*link != NULL, CUDA_ERROR_INVALID_HANDLE);
    capture_stream_gone(stream);
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
    TRY(capture_refuse(stream));
    pools_synchronize();
    return CUDA_SUCCESS;
}

STREAM_API(cuStreamQuery, _ptsz, (CUstream stream), (stream))
{
    CUcontext context;
    TRY(stream_context(stream, &context));
    return capture_refuse(stream);
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

static CUresult capture_host(CUstream stream, void (*function)(void *), void *data, bool *captured)
{
    CUcontext context;
    TRY(stream_context(stream, &context));
    struct work work = { .type = NODE_HOST, .host = { function, data } };
    return capture_work(stream, &work, captured);
}

static CUresult submit_host(const char *symbol, bool per_thread, CUstream stream, void (*function)(void *), void *data,
                            bool *captured)
{
    DRIVER_CALL_AS(symbol, (driver_per_thread = per_thread, capture_host(stream, function, data, captured)));
}

/* Host functions may not call CUDA, but may wait for a thread that does: they run without the lock. */
static CUresult launch_host(const char *symbol, bool per_thread, CUstream stream, void (*function)(void *), void *data)
{
    bool captured;
    NOT_NULL(function);
    TRY(submit_host(symbol, per_thread, stream, function, data, &captured));
    if (!captured) {
        function(data);
    }
    return CUDA_SUCCESS;
}

CUAPI CUresult cuLaunchHostFunc(CUstream stream, void (*function)(void *), void *data)
{
    return launch_host(__func__, false, stream, function, data);
}
CUAPI CUresult cuLaunchHostFunc_ptsz(CUstream stream, void (*function)(void *), void *data)
{
    return launch_host(__func__, true, stream, function, data);
}

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
    *event = (struct fake_event){ events, context, flags, 0, { 0 } };
    events = event;
    *out = event;
    return CUDA_SUCCESS;
}

static CUresult event_destroy(CUevent event)
{
    REQUIRE(event != NULL && *event_link(event) != NULL, CUDA_ERROR_INVALID_HANDLE);
    *event_link(event) = event->next;
    capture_forget(&event->capture);
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

bool event_exists(CUevent event)
{
    return event_known(event) == CUDA_SUCCESS;
}

struct capture_state *event_capture(CUevent event)
{
    return &event->capture;
}

bool event_recorded(CUevent event)
{
    return event->recorded_ns != 0;
}

static CUresult event_query(CUevent event)
{
    TRY(event_known(event));
    return capture_event_check(event);
}

static CUresult event_synchronize(CUevent event)
{
    TRY(event_query(event));
    pools_synchronize();
    return CUDA_SUCCESS;
}

CUAPI CUresult cuEventCreate(CUevent *out, unsigned flags) { DRIVER_CALL(event_create(out, flags)); }
CUAPI CUresult cuEventDestroy(CUevent event) { DRIVER_CALL(event_destroy(event)); }
CUAPI CUresult cuEventDestroy_v2(CUevent event) { DRIVER_CALL(event_destroy(event)); }
CUAPI CUresult cuEventQuery(CUevent event) { DRIVER_CALL(event_query(event)); }
CUAPI CUresult cuEventSynchronize(CUevent event) { DRIVER_CALL(event_synchronize(event)); }
CUAPI CUresult cuEventElapsedTime(float *ms, CUevent a, CUevent b) { DRIVER_CALL(event_elapsed(ms, a, b)); }
CUAPI CUresult cuEventElapsedTime_v2(float *ms, CUevent a, CUevent b) { DRIVER_CALL(event_elapsed(ms, a, b)); }

CUresult event_run_record(CUevent event)
{
    TRY(event_known(event));
    event->recorded_ns = now_ns();
    return CUDA_SUCCESS;
}

static CUresult event_record(CUevent event, CUstream stream, unsigned flags)
{
    CUcontext context;
    bool captured;
    REQUIRE(flags <= 1, CUDA_ERROR_INVALID_VALUE);
    TRY(event_known(event));
    TRY(stream_context(stream, &context));
    REQUIRE(context == event->context, CUDA_ERROR_INVALID_HANDLE);
    TRY(capture_record(stream, event, flags, &captured));
    return captured ? CUDA_SUCCESS : event_run_record(event);
}

STREAM_API(cuEventRecord, _ptsz, (CUevent event, CUstream stream), (event, stream))
{
    return event_record(event, stream, 0);
}

STREAM_API(cuEventRecordWithFlags, _ptsz, (CUevent event, CUstream stream, unsigned flags), (event, stream, flags))
{
    return event_record(event, stream, flags);
}

STREAM_API(cuStreamWaitEvent, _ptsz, (CUstream stream, CUevent event, unsigned flags), (stream, event, flags))
{
    CUcontext context;
    bool captured;
    REQUIRE(flags <= 1, CUDA_ERROR_INVALID_VALUE);
    TRY(event_known(event));
    TRY(stream_context(stream, &context));
    return capture_wait(stream, event, flags, &captured);
}

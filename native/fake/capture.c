/*
 * capture.c: stream capture.
 *
 * A capture begins on one stream and may spread to others by events. What these streams are given to do becomes nodes.
 * A call that a capture forbids fails and breaks it: the capture then only ends with CUDA_ERROR_STREAM_CAPTURE_INVALIDATED.
 */
#include "capture.h"

#include <pthread.h>
#include <stdlib.h>
#include <string.h>

enum { MODE_GLOBAL, MODE_THREAD_LOCAL, MODE_RELAXED };
enum { STATUS_NONE, STATUS_ACTIVE, STATUS_INVALIDATED };

struct capture {
    struct capture *next;
    uint64_t id;
    CUstream origin;
    CUgraph graph;
    bool into;                            /* the graph was there before */
    int mode;
    pthread_t thread;
    bool broken;
};

static struct capture *captures;
static uint64_t last_id;
static _Thread_local int thread_mode;

static void set_last(struct capture_state *state, struct capture *capture, CUgraphNode const *last, size_t count)
{
    CUgraphNode *copy = calloc(count + 1, sizeof *copy);
    if (copy == NULL) {
        capture->broken = true;
        return;
    }
    memcpy(copy, count != 0 ? last : copy, count * sizeof *copy);
    free(state->last);
    *state = (struct capture_state){ .capture = capture, .id = capture->id, .last = copy, .count = count };
}

void capture_forget(struct capture_state *state)
{
    free(state->last);
    *state = (struct capture_state){ 0 };
}

/* The capture that an event or a stream is in, unless it has ended. */
static struct capture *going_on(const struct capture_state *state)
{
    struct capture *capture = state != NULL ? captures : NULL;
    while (capture != NULL && (capture != state->capture || capture->id != state->id)) {
        capture = capture->next;
    }
    return capture;
}

static CUresult breaks(struct capture *capture, CUresult error)
{
    capture->broken = true;
    return error;
}

/* A stream that waits for work of the legacy stream captures in the current context: the legacy stream is unusable. */
static struct capture *implicit(void)
{
    CUcontext context;
    if (captures == NULL || context_current(&context) != CUDA_SUCCESS) {
        return NULL;
    }
    for (CUstream stream = stream_next(NULL); stream != NULL; stream = stream_next(stream)) {
        struct capture *capture = going_on(stream_capture(stream));
        if (capture != NULL && stream_blocking(stream) && stream_owner(stream) == context) {
            return capture;
        }
    }
    return NULL;
}

/* ---- what is not allowed while something is captured ---- */

/* "Potentially unsafe": they do something at once that a captured stream only notes down. NVIDIA names some; where it
 * does not say, the model is strict. Without suffixes. */
static const char *const unsafe[] = {
    "cuArray3DCreate", "cuArrayCreate", "cuArrayDestroy", "cuCtxCreate", "cuCtxDestroy", "cuCtxSynchronize",
    "cuDeviceGraphMemTrim", "cuDevicePrimaryCtxRelease", "cuDevicePrimaryCtxReset", "cuEventQuery",
    "cuEventSynchronize", "cuLibraryLoadData", "cuLibraryLoadFromFile", "cuMemAddressFree", "cuMemAddressReserve",
    "cuMemAlloc", "cuMemAllocHost", "cuMemAllocManaged", "cuMemAllocPitch", "cuMemCreate", "cuMemFree",
    "cuMemFreeHost", "cuMemGetInfo", "cuMemHostAlloc", "cuMemHostRegister", "cuMemHostUnregister", "cuMemMap",
    "cuMemPoolDestroy", "cuMemPoolGetAttribute", "cuMemPoolTrimTo", "cuMemRelease", "cuMemSetAccess", "cuMemUnmap",
    "cuMemcpy", "cuMemcpy2D", "cuMemcpy2DUnaligned", "cuMemcpy3D", "cuMemcpyDtoD", "cuMemcpyDtoH", "cuMemcpyHtoD",
    "cuMemsetD16", "cuMemsetD2D16", "cuMemsetD2D32", "cuMemsetD2D8", "cuMemsetD32", "cuMemsetD8",
    "cuMipmappedArrayCreate", "cuMipmappedArrayDestroy", "cuModuleLoad", "cuModuleLoadData", "cuModuleLoadDataEx",
    "cuModuleLoadFatBinary", "cuModuleUnload", "cuStreamQuery", "cuStreamSynchronize",
};

/* What a test that doubts everything still allows: calls that look something up, and those about captures and graphs. */
static const char *const harmless[] = {
    "cuCtxGetCurrent", "cuCtxGetDevice", "cuCtxPopCurrent", "cuCtxPushCurrent", "cuCtxSetCurrent", "cuDeviceGet",
    "cuDeviceGetAttribute", "cuDeviceGetCount", "cuDeviceGetUuid", "cuDeviceTotalMem", "cuStreamBeginCapture",
    "cuStreamEndCapture", "cuStreamGetCaptureInfo", "cuStreamIsCapturing", "cuThreadExchangeStreamCaptureMode",
};

static bool listed(const char *symbol, const char *const *list, size_t count)
{
    size_t length = strlen(symbol);
    while (length > 5 && (memcmp(symbol + length - 5, "_ptsz", 5) == 0 || memcmp(symbol + length - 5, "_ptds", 5) == 0)) {
        length -= 5;
    }
    while (length > 3 && symbol[length - 3] == '_' && symbol[length - 2] == 'v') {
        length -= 3;
    }
    for (size_t i = 0; i < count; i++) {
        if (strlen(list[i]) == length && memcmp(list[i], symbol, length) == 0) {
            return true;
        }
    }
    return false;
}

#define LISTED(symbol, list) listed(symbol, list, sizeof list / sizeof *list)

/* FRACGPU_FAKE_CAPTURE_ALLOWS: for tests of what calls are made. Set, nothing is safe beside another thread's capture but
 * `harmless` and that symbol. */
static bool is_unsafe(const char *symbol, bool beside_own)
{
    const char *allowed = beside_own ? NULL : getenv("FRACGPU_FAKE_CAPTURE_ALLOWS");
    if (allowed == NULL) {
        return LISTED(symbol, unsafe);
    }
    return strcmp(symbol, allowed) != 0 && !LISTED(symbol, harmless);
}

static bool prohibits(const struct capture *capture, const char *symbol)
{
    bool own = pthread_equal(capture->thread, pthread_self()) != 0;
    bool applies = own ? capture->mode != MODE_RELAXED : thread_mode == MODE_GLOBAL && capture->mode == MODE_GLOBAL;
    return applies && thread_mode != MODE_RELAXED && !capture->broken && is_unsafe(symbol, own);
}

CUresult capture_admits(const char *symbol)
{
    if (captures == NULL) {
        return CUDA_SUCCESS;
    }
    CUresult rc = CUDA_SUCCESS;
    bool legacy = strncmp(symbol, "cuMemcpy", 8) == 0 || strncmp(symbol, "cuMemset", 8) == 0;
    CUresult error = legacy && implicit() != NULL ? CUDA_ERROR_STREAM_CAPTURE_IMPLICIT
                                                  : CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED;
    for (struct capture *capture = captures; capture != NULL; capture = capture->next) {
        if (prohibits(capture, symbol)) {
            rc = breaks(capture, error);
        }
    }
    return rc;
}

/* ---- what becomes of the work ---- */

/* The capture that a stream takes part in, NULL if none. The legacy stream can not be used beside a blocking one. */
static CUresult find(CUstream stream, struct capture **out)
{
    struct capture_state *state = captures != NULL ? stream_capture(stream) : NULL;
    *out = going_on(state);
    if (captures != NULL && state == NULL) {
        struct capture *other = implicit();
        return other == NULL ? CUDA_SUCCESS : breaks(other, CUDA_ERROR_STREAM_CAPTURE_IMPLICIT);
    }
    return *out != NULL && (*out)->broken ? CUDA_ERROR_STREAM_CAPTURE_INVALIDATED : CUDA_SUCCESS;
}

CUresult capture_work(CUstream stream, struct work *work, bool *captured)
{
    struct capture *capture;
    *captured = false;
    TRY(find(stream, &capture));
    if (capture == NULL) {
        return CUDA_SUCCESS;
    }
    struct capture_state *state = stream_capture(stream);
    CUgraphNode node;
    CUresult rc = graph_add(&node, capture->graph, state->last, state->count, work);
    REQUIRE(rc == CUDA_SUCCESS, breaks(capture, rc));
    set_last(state, capture, &node, 1);
    *captured = true;
    return CUDA_SUCCESS;
}

CUresult capture_refuse(CUstream stream)
{
    struct capture *capture;
    TRY(find(stream, &capture));
    return capture == NULL ? CUDA_SUCCESS : breaks(capture, CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED);
}

CUresult capture_record(CUstream stream, CUevent event, unsigned flags, bool *captured)
{
    struct capture *capture;
    *captured = false;
    TRY(find(stream, &capture));
    if (capture == NULL) {
        capture_forget(event_capture(event));
        return CUDA_SUCCESS;
    }
    if (flags != 0) {                     /* "external": a node that records it */
        return capture_work(stream, &(struct work){ .type = NODE_RECORD, .event = event }, captured);
    }
    const struct capture_state *state = stream_capture(stream);
    set_last(event_capture(event), capture, state->last, state->count);
    *captured = true;
    return CUDA_SUCCESS;
}

static CUresult join(CUstream stream, struct capture *capture, const struct capture_state *with)
{
    struct capture_state *state = stream_capture(stream);
    REQUIRE(state != NULL, breaks(capture, CUDA_ERROR_STREAM_CAPTURE_IMPLICIT));
    size_t old = going_on(state) == capture ? state->count : 0;
    CUgraphNode *both = calloc(old + with->count + 1, sizeof *both);
    REQUIRE(both != NULL, breaks(capture, CUDA_ERROR_OUT_OF_MEMORY));
    memcpy(both, old != 0 ? state->last : both, old * sizeof *both);
    for (size_t i = 0; i < with->count; i++) {
        size_t at = 0;
        while (at < old && both[at] != with->last[i]) {
            at++;
        }
        both[at] = with->last[i];
        old = at == old ? old + 1 : old;
    }
    set_last(state, capture, both, old);
    free(both);
    return CUDA_SUCCESS;
}

CUresult capture_wait(CUstream stream, CUevent event, unsigned flags, bool *captured)
{
    struct capture *of_stream, *of_event = going_on(event_capture(event));
    *captured = true;
    TRY(find(stream, &of_stream));
    if (flags != 0 && of_stream != NULL) {
        return capture_work(stream, &(struct work){ .type = NODE_WAIT, .event = event }, captured);
    }
    if (of_event != NULL) {
        REQUIRE(!of_event->broken, CUDA_ERROR_STREAM_CAPTURE_INVALIDATED);
        if (of_stream != NULL && of_stream != of_event) {
            of_stream->broken = true;
            return breaks(of_event, CUDA_ERROR_STREAM_CAPTURE_MERGE);
        }
        return join(stream, of_event, event_capture(event));
    }
    if (of_stream != NULL && event_recorded(event)) {
        return breaks(of_stream, CUDA_ERROR_STREAM_CAPTURE_ISOLATION);
    }
    *captured = of_stream != NULL;
    return CUDA_SUCCESS;
}

CUresult capture_event_check(CUevent event)
{
    struct capture *capture = going_on(event_capture(event));
    return capture == NULL ? CUDA_SUCCESS : breaks(capture, CUDA_ERROR_CAPTURED_EVENT);
}

void capture_stream_gone(CUstream stream)
{
    struct capture *capture = going_on(stream_capture(stream));
    if (capture != NULL) {
        capture->broken = true;
    }
    capture_forget(stream_capture(stream));
}

/* ---- beginning and ending ---- */

static CUresult begin(CUstream stream, int mode, CUgraph into, CUgraphNode const *last, size_t count)
{
    int device;
    REQUIRE(mode >= MODE_GLOBAL && mode <= MODE_RELAXED, CUDA_ERROR_INVALID_VALUE);
    TRY(stream_device(stream, &device));
    struct capture_state *state = stream_capture(stream);
    REQUIRE(state != NULL, CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED);
    REQUIRE(going_on(state) == NULL, CUDA_ERROR_ILLEGAL_STATE);
    struct capture *capture = calloc(1, sizeof *capture);
    REQUIRE(capture != NULL, CUDA_ERROR_OUT_OF_MEMORY);
    *capture = (struct capture){ .next = captures, .id = ++last_id, .origin = stream_object(stream), .graph = into,
                                 .into = into != NULL, .mode = mode, .thread = pthread_self() };
    CUresult rc = into != NULL ? CUDA_SUCCESS : graph_create(&capture->graph);
    if (rc != CUDA_SUCCESS) {
        free(capture);
        return rc;
    }
    capture->graph->owned = true;
    captures = capture;
    set_last(state, capture, last, count);
    return CUDA_SUCCESS;
}

static CUresult begin_to_graph(CUstream stream, CUgraph graph, CUgraphNode const *last, size_t count, int mode)
{
    REQUIRE(graph_known(graph) && !graph->owned && (count == 0 || last != NULL), CUDA_ERROR_INVALID_VALUE);
    for (size_t i = 0; i < count; i++) {
        REQUIRE(node_known(graph, last[i]), CUDA_ERROR_INVALID_VALUE);
    }
    return begin(stream, mode, graph, last, count);
}

/* Whether all that forked streams did comes before what the first stream did last. */
static bool joined(const struct capture *capture)
{
    const struct capture_state *first = stream_capture(capture->origin);
    for (CUstream stream = stream_next(NULL); stream != NULL; stream = stream_next(stream)) {
        const struct capture_state *state = stream_capture(stream);
        if (stream == capture->origin || going_on(state) != capture) {
            continue;
        }
        for (size_t i = 0; i < state->count; i++) {
            if (!graph_precedes(state->last[i], first->last, first->count)) {
                return false;
            }
        }
    }
    return true;
}

static void end(struct capture *capture)
{
    struct capture **link = &captures;
    while (*link != capture) {
        link = &(*link)->next;
    }
    for (CUstream stream = stream_next(NULL); stream != NULL; stream = stream_next(stream)) {
        if (going_on(stream_capture(stream)) == capture) {
            capture_forget(stream_capture(stream));
        }
    }
    *link = capture->next;
    capture->graph->owned = false;
    free(capture);
}

static CUresult end_capture(CUstream stream, CUgraph *out)
{
    int device;
    TRY(stream_device(stream, &device));
    struct capture *capture = going_on(stream_capture(stream));
    NOT_NULL(out);
    REQUIRE(capture != NULL, CUDA_ERROR_ILLEGAL_STATE);
    REQUIRE(capture->mode == MODE_RELAXED || pthread_equal(capture->thread, pthread_self()) != 0,
            CUDA_ERROR_STREAM_CAPTURE_WRONG_THREAD);
    REQUIRE(stream_object(stream) == capture->origin, breaks(capture, CUDA_ERROR_STREAM_CAPTURE_UNMATCHED));
    CUgraph graph = capture->graph;
    bool into = capture->into;
    CUresult rc = capture->broken ? CUDA_ERROR_STREAM_CAPTURE_INVALIDATED
                  : joined(capture) ? CUDA_SUCCESS : CUDA_ERROR_STREAM_CAPTURE_UNJOINED;
    end(capture);
    if (rc != CUDA_SUCCESS && !into) {
        graph_destroy(graph);
    }
    *out = rc == CUDA_SUCCESS ? graph : NULL;
    return rc;
}

/* ---- what may be asked ---- */

static CUresult status_of(CUstream stream, int *status, struct capture **out)
{
    int device;
    NOT_NULL(status);
    TRY(stream_device(stream, &device));
    struct capture_state *state = stream_capture(stream);
    REQUIRE(state != NULL || implicit() == NULL, CUDA_ERROR_STREAM_CAPTURE_IMPLICIT);
    *out = going_on(state);
    *status = *out == NULL ? STATUS_NONE : (*out)->broken ? STATUS_INVALIDATED : STATUS_ACTIVE;
    return CUDA_SUCCESS;
}

static CUresult info(CUstream stream, int *status, uint64_t *id, CUgraph *graph, CUgraphNode const **last, size_t *count)
{
    struct capture *capture;
    TRY(status_of(stream, status, &capture));
    if (*status != STATUS_ACTIVE) {
        return CUDA_SUCCESS;
    }
    const struct capture_state *state = stream_capture(stream);
    if (id != NULL) {
        *id = capture->id;
    }
    if (graph != NULL) {
        *graph = capture->graph;
    }
    if (last != NULL) {
        *last = state->last;
    }
    if (count != NULL) {
        *count = state->count;
    }
    return CUDA_SUCCESS;
}

static CUresult update(CUstream stream, CUgraphNode const *nodes, size_t count, unsigned flags)
{
    struct capture *capture;
    int status;
    REQUIRE(flags <= 1 && (count == 0 || nodes != NULL), CUDA_ERROR_INVALID_VALUE);
    TRY(status_of(stream, &status, &capture));
    REQUIRE(status != STATUS_NONE, CUDA_ERROR_ILLEGAL_STATE);
    REQUIRE(status == STATUS_ACTIVE, CUDA_ERROR_STREAM_CAPTURE_INVALIDATED);
    for (size_t i = 0; i < count; i++) {
        REQUIRE(node_known(capture->graph, nodes[i]), CUDA_ERROR_INVALID_VALUE);
    }
    if (flags == 1) {
        set_last(stream_capture(stream), capture, nodes, count);
        return CUDA_SUCCESS;
    }
    CUgraphNode *copy = (CUgraphNode *)(uintptr_t)nodes;
    return join(stream, capture, &(struct capture_state){ .last = copy, .count = count });
}

static CUresult exchange_mode(int *mode)
{
    NOT_NULL(mode);
    REQUIRE(*mode >= MODE_GLOBAL && *mode <= MODE_RELAXED, CUDA_ERROR_INVALID_VALUE);
    int previous = thread_mode;
    thread_mode = *mode;
    *mode = previous;
    return CUDA_SUCCESS;
}

CUAPI CUresult cuThreadExchangeStreamCaptureMode(int *mode) { DRIVER_CALL(exchange_mode(mode)); }

STREAM_API(cuStreamBeginCapture, _ptsz, (CUstream stream), (stream))
{
    return begin(stream, MODE_GLOBAL, NULL, NULL, 0);
}

STREAM_API(cuStreamBeginCapture_v2, _ptsz, (CUstream stream, int mode), (stream, mode))
{
    return begin(stream, mode, NULL, NULL, 0);
}

STREAM_API(cuStreamBeginCaptureToGraph, _ptsz,
           (CUstream stream, CUgraph graph, CUgraphNode const *last, const void *edges, size_t count, int mode),
           (stream, graph, last, edges, count, mode))
{
    (void)edges;
    return begin_to_graph(stream, graph, last, count, mode);
}

STREAM_API(cuStreamEndCapture, _ptsz, (CUstream stream, CUgraph *graph), (stream, graph))
{
    return end_capture(stream, graph);
}

STREAM_API(cuStreamIsCapturing, _ptsz, (CUstream stream, int *status), (stream, status))
{
    struct capture *capture;
    return status_of(stream, status, &capture);
}

STREAM_API(cuStreamGetCaptureInfo, _ptsz, (CUstream stream, int *status, uint64_t *id), (stream, status, id))
{
    return info(stream, status, id, NULL, NULL, NULL);
}

STREAM_API(cuStreamGetCaptureInfo_v2, _ptsz,
           (CUstream stream, int *status, uint64_t *id, CUgraph *graph, CUgraphNode const **last, size_t *count),
           (stream, status, id, graph, last, count))
{
    return info(stream, status, id, graph, last, count);
}

STREAM_API(cuStreamGetCaptureInfo_v3, _ptsz,
           (CUstream stream, int *status, uint64_t *id, CUgraph *graph, CUgraphNode const **last, const void **edges,
            size_t *count),
           (stream, status, id, graph, last, edges, count))
{
    if (edges != NULL) {
        *edges = NULL;                    /* no edge has any */
    }
    return info(stream, status, id, graph, last, count);
}

STREAM_API(cuStreamUpdateCaptureDependencies, _ptsz,
           (CUstream stream, CUgraphNode const *nodes, size_t count, unsigned flags), (stream, nodes, count, flags))
{
    return update(stream, nodes, count, flags);
}

STREAM_API(cuStreamUpdateCaptureDependencies_v2, _ptsz,
           (CUstream stream, CUgraphNode const *nodes, const void *edges, size_t count, unsigned flags),
           (stream, nodes, edges, count, flags))
{
    (void)edges;
    return update(stream, nodes, count, flags);
}

/* capture.h: streams whose work becomes a graph, and what is not allowed meanwhile. */
#ifndef FAKE_CAPTURE_H
#define FAKE_CAPTURE_H

#include "graph.h"

struct capture;

/* A stream's part in a capture; a snapshot of it in an event. All zeros: none. */
struct capture_state {
    struct capture *capture;              /* in an event: may have ended */
    uint64_t id;
    CUgraphNode *last;                    /* what the next node depends on */
    size_t count;
};

/* Before any call of the driver: CUDA_SUCCESS, or the error for one that a capture forbids, which breaks the capture. */
CUresult capture_admits(const char *symbol);

/* Work for a stream that captures becomes a node, and *captured says so. Everything that is put on a stream comes here
 * first. `work` is as for graph_add. */
CUresult capture_work(CUstream stream, struct work *work, bool *captured);

/* What a stream that captures can not do: 900, and the capture is broken. */
CUresult capture_refuse(CUstream stream);

/* An event is recorded on a stream that captures; a stream waits for an event. */
CUresult capture_record(CUstream stream, CUevent event, unsigned flags, bool *captured);
CUresult capture_wait(CUstream stream, CUevent event, unsigned flags, bool *captured);
/* Whether the event was last recorded in a capture that still goes on: it can not be asked for, and 907 breaks that. */
CUresult capture_event_check(CUevent event);
void capture_forget(struct capture_state *state);
/* A stream that takes part is destroyed. */
void capture_stream_gone(CUstream stream);

/* ---- stream.c ---- */
/* The state of a stream; NULL for the legacy stream, which can not capture. */
struct capture_state *stream_capture(CUstream stream);
bool stream_blocking(CUstream stream);
struct capture_state *event_capture(CUevent event);
/* All streams, the threads' own among them, one after the other; NULL at the end. */
CUstream stream_next(CUstream stream);
CUcontext stream_owner(CUstream stream);
/* The stream that a handle means, NULL for the legacy stream. */
CUstream stream_object(CUstream stream);
bool event_recorded(CUevent event);

#endif /* FAKE_CAPTURE_H */

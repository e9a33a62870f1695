/* Graphs: the memory of their allocation nodes is charged while the driver holds it, whoever runs them how often. */
#include "behave.h"

enum { AUTO_FREE = 1, UPLOAD = 2 };

struct alloc_params {
    struct pool_props props;
    const void *accesses;
    size_t access_count;
    size_t bytes;
    uint64_t address;
};

struct instantiate_params {
    uint64_t flags;
    handle_t stream, error_node;
    int result;
};

static handle_t new_graph(void)
{
    handle_t graph;
    CHECK(cuGraphCreate(&graph, 0) == 0);
    return graph;
}

static handle_t new_stream(void)
{
    handle_t stream;
    CHECK(cuStreamCreate(&stream, 1) == 0);
    return stream;
}

/* An allocation node after `*last`, which becomes the last node. */
static uint64_t add_alloc(handle_t graph, handle_t *last, size_t bytes)
{
    struct alloc_params params = {.props = {.type = 1, .location = {.type = 1, .id = 0}}, .bytes = bytes};
    handle_t node;
    CHECK(cuGraphAddMemAllocNode(&node, graph, last, *last != NULL, &params) == 0);
    *last = node;
    return params.address;
}

static void add_free(handle_t graph, handle_t *last, uint64_t address)
{
    handle_t node;
    CHECK(cuGraphAddMemFreeNode(&node, graph, last, 1, address) == 0);
    *last = node;
}

static handle_t temporary_graph(size_t bytes)
{
    handle_t graph = new_graph(), last = NULL;
    add_free(graph, &last, add_alloc(graph, &last, bytes));
    return graph;
}

static handle_t instantiated(handle_t graph, unsigned long long flags)
{
    handle_t exec;
    CHECK(cuGraphInstantiateWithFlags(&exec, graph, flags) == 0);
    return exec;
}

static handle_t temporary(size_t bytes) { return instantiated(temporary_graph(bytes), 0); }

static void trim(void) { CHECK(cuDeviceGraphMemTrim(0) == 0); }

/* ---- making executable graphs ---- */

typedef int instantiate_t(handle_t *exec, handle_t graph);
typedef int upload_t(handle_t *exec, handle_t graph, void *params);

static void check_instantiating(instantiate_t *instantiate)
{
    handle_t small, large, stream = new_stream();
    CHECK(instantiate(&small, temporary_graph(64 * MIB)) == 0 && instantiate(&large, temporary_graph(limit + MIB)) == 0);
    CHECK(charged() == 0);
    CHECK(cuGraphLaunch(small, stream) == 0 && charged() == 64 * MIB);
    CHECK(cuGraphLaunch(large, stream) == OUT_OF_MEMORY);
    CHECK(cuGraphLaunch(small, stream) == 0 && charged() == 64 * MIB && shown_free() == limit - 64 * MIB);
}

static int instantiate(handle_t *exec, handle_t graph) { return cuGraphInstantiate(exec, graph, NULL, NULL, 0); }
static int instantiate_v2(handle_t *exec, handle_t graph) { return cuGraphInstantiate_v2(exec, graph, NULL, NULL, 0); }
static int instantiate_flags(handle_t *exec, handle_t graph) { return cuGraphInstantiateWithFlags(exec, graph, 0); }

static int instantiate_params(handle_t *exec, handle_t graph)
{
    struct instantiate_params params = {.flags = AUTO_FREE};
    return cuGraphInstantiateWithParams(exec, graph, &params);
}

static int instantiate_params_ptsz(handle_t *exec, handle_t graph)
{
    struct instantiate_params params = {.flags = AUTO_FREE};
    return cuGraphInstantiateWithParams_ptsz(exec, graph, &params);
}

/* An upload is part of it when the flags say so. */
static void check_uploading(upload_t *instantiate)
{
    struct instantiate_params params = {.flags = UPLOAD, .stream = new_stream()};
    handle_t exec = NULL, refused = (handle_t)(uintptr_t)SENTINEL;
    trim();
    CHECK(instantiate(&exec, temporary_graph(128 * MIB), &params) == 0 && charged() == 128 * MIB);
    CHECK(cuGraphLaunch(exec, params.stream) == 0 && charged() == 128 * MIB);
    CHECK(instantiate(&refused, temporary_graph(limit + MIB), &params) == OUT_OF_MEMORY);
    CHECK(refused == (handle_t)(uintptr_t)SENTINEL);
}

void check_graph_instantiate(void) { check_instantiating(instantiate); }
void check_graph_instantiate_v2(void) { check_instantiating(instantiate_v2); }
void check_graph_instantiate_flags(void) { check_instantiating(instantiate_flags); }

void check_graph_instantiate_params(void)
{
    check_instantiating(instantiate_params);
    check_uploading(cuGraphInstantiateWithParams);
}

void check_graph_instantiate_params_ptsz(void)
{
    check_instantiating(instantiate_params_ptsz);
    check_uploading(cuGraphInstantiateWithParams_ptsz);
}

/* ---- running them ---- */

typedef int run_t(handle_t exec, handle_t stream);

static void check_running(run_t *run)
{
    handle_t first = new_stream(), second = new_stream(), large = temporary(limit - 64 * MIB), other;
    CHECK(run(large, first) == 0 && charged() == limit - 64 * MIB);
    CHECK(run(large, first) == 0 && charged() == limit - 64 * MIB);
    /* The stream has the pages already, and another one has not: for that the idle ones are given up first. */
    other = temporary(limit / 2);
    CHECK(run(other, first) == 0 && charged() == limit - 64 * MIB);
    CHECK(run(other, second) == 0 && charged() == limit / 2);
    CHECK(run(large, first) == 0 && charged() == limit - 64 * MIB);
    CHECK(run(temporary(limit + MIB), first) == OUT_OF_MEMORY);
    /* Idle memory of graphs makes room for whatever else is allocated. */
    uint64_t address;
    CHECK(cuMemAlloc_v2(&address, limit - 64 * MIB) == 0 && charged() == limit - 64 * MIB);
    CHECK(run(other, second) == OUT_OF_MEMORY && charged() == limit - 64 * MIB);
    CHECK(cuMemFree_v2(address) == 0 && charged() == 0);
    CHECK(run(other, second) == 0 && charged() == limit / 2);
}

/* Nodes that run one after the other have one place, and nothing but that is charged. */
static void check_places(run_t *run)
{
    handle_t graph = new_graph(), last = NULL;
    for (int round = 0; round < 40; round++)
        add_free(graph, &last, add_alloc(graph, &last, limit / 4));
    trim();
    CHECK(run(instantiated(graph, 0), new_stream()) == 0 && charged() == limit / 4);
    trim();
    CHECK(charged() == 0);
}

/* What outlives its graph stays charged; to run again costs nothing more, even at the limit. */
static void check_lasting(run_t *run)
{
    handle_t graph = new_graph(), last = NULL, stream = new_stream();
    uint64_t address = add_alloc(graph, &last, limit / 2 + 64 * MIB);
    handle_t exec = instantiated(graph, AUTO_FREE);
    for (int round = 0; round < 3; round++)
        CHECK(run(exec, stream) == 0 && charged() == limit / 2 + 64 * MIB);
    trim();
    CHECK(charged() == limit / 2 + 64 * MIB);
    CHECK(run(exec, stream) == 0 && charged() == limit / 2 + 64 * MIB);
    CHECK(run(temporary(limit / 2), stream) == OUT_OF_MEMORY);
    CHECK(run(exec, stream) == 0);
    CHECK(cuMemFreeAsync(address, stream) == 0);
    CHECK(run(temporary(limit / 2), stream) == 0);
    CHECK(run(exec, stream) == 0 && cuMemFree_v2(address) == 0);
    trim();
    CHECK(charged() == 0);
}

/* A captured allocation is a graph's: nothing is charged for it before the graph runs. */
static void check_captured(run_t *run)
{
    handle_t stream = new_stream(), graph;
    uint64_t address;
    CHECK(cuStreamBeginCapture_v2(stream, 0) == 0);
    CHECK(cuMemAllocAsync(&address, 256 * MIB, stream) == 0 && cuMemFreeAsync(address, stream) == 0);
    CHECK(cuStreamEndCapture(stream, &graph) == 0 && charged() == 0);
    CHECK(run(instantiated(graph, 0), stream) == 0 && charged() == 256 * MIB);
    trim();
    /* The legacy stream beside a stream that waits for it: refused, and the capture broken, as without a shim. */
    CHECK(cuStreamCreate(&stream, 0) == 0 && cuStreamBeginCapture_v2(stream, 0) == 0);
    CHECK(cuMemAllocAsync(&address, MIB, NULL) == 906 && cuStreamEndCapture(stream, &graph) == 901);
    CHECK(charged() == 0);
}

static void check_launching(run_t *run)
{
    check_captured(run);
    check_running(run);
    check_places(run);
    check_lasting(run);
}

void check_graph_launch(void) { check_launching(cuGraphLaunch); }
void check_graph_launch_ptsz(void) { check_launching(cuGraphLaunch_ptsz); }

void check_graph_upload(void)
{
    check_running(cuGraphUpload);
    check_places(cuGraphUpload);
}

void check_graph_upload_ptsz(void)
{
    check_running(cuGraphUpload_ptsz);
    check_places(cuGraphUpload_ptsz);
}

void check_graph_trim(void)
{
    handle_t exec = temporary(128 * MIB), stream = new_stream();
    CHECK(cuGraphLaunch(exec, stream) == 0 && charged() == 128 * MIB);
    CHECK(cuGraphExecDestroy(exec) == 0 && charged() == 128 * MIB);
    CHECK(cuDeviceGraphMemTrim(0) == 0 && charged() == 0);
    CHECK(cuDeviceGraphMemTrim(99) != 0);
}

/* The subjects of faults: executable graphs with memory of their own. */
#include "faults.h"

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

enum { UPLOAD = 2 };

static handle_t graph, exec, stream;

/* A graph that allocates, and frees what it allocated. */
static void made_graph(void)
{
    struct alloc_params params = {.props = {.type = 1, .location = {.type = 1, .id = 0}}, .bytes = BYTES};
    handle_t first, second;
    CHECK(cuGraphCreate(&graph, 0) == 0 && cuStreamCreate(&stream, 1) == 0);
    CHECK(cuGraphAddMemAllocNode(&first, graph, NULL, 0, &params) == 0);
    CHECK(cuGraphAddMemFreeNode(&second, graph, &first, 1, params.address) == 0);
}

TAKER(instantiate, exec, (uintptr_t)SENTINEL, cuGraphInstantiate(&result, graph, NULL, NULL, 0))
TAKER(instantiate_v2, exec, (uintptr_t)SENTINEL, cuGraphInstantiate_v2(&result, graph, NULL, NULL, 0))
TAKER(instantiate_flags, exec, (uintptr_t)SENTINEL, cuGraphInstantiateWithFlags(&result, graph, 0))

/* With the upload that its flags ask for. */
static struct instantiate_params uploading(void) { return (struct instantiate_params){UPLOAD, stream, NULL, 0}; }

static int instantiate_params(void)
{
    struct instantiate_params params = uploading();
    handle_t result = (handle_t)(uintptr_t)SENTINEL;
    int code = cuGraphInstantiateWithParams(&result, graph, &params);
    CHECK(code == 0 || result == (handle_t)(uintptr_t)SENTINEL);
    exec = code == 0 ? result : NULL;
    return code;
}

static int instantiate_params_ptsz(void)
{
    struct instantiate_params params = uploading();
    handle_t result = (handle_t)(uintptr_t)SENTINEL;
    int code = cuGraphInstantiateWithParams_ptsz(&result, graph, &params);
    CHECK(code == 0 || result == (handle_t)(uintptr_t)SENTINEL);
    exec = code == 0 ? result : NULL;
    return code;
}

static int upload(void) { return cuGraphUpload(exec, stream); }
static int upload_ptsz(void) { return cuGraphUpload_ptsz(exec, stream); }
static int launch(void) { return cuGraphLaunch(exec, stream); }
static int launch_ptsz(void) { return cuGraphLaunch_ptsz(exec, stream); }
static int trim(void) { return cuDeviceGraphMemTrim(0); }

MUST(instantiated, instantiate_flags)
MUST(launched, launch)
MUST(trimmed, trim)

static void nothing(void) {}

static void executable(void)
{
    made_graph();
    instantiated();
}

static void destroyed(void)
{
    CHECK(cuGraphExecDestroy(exec) == 0);
    trimmed();
}

static void idle(void)
{
    executable();
    launched();
    CHECK(cuGraphExecDestroy(exec) == 0);
}

const struct subject graph_subjects[] = {
    {"cuGraphInstantiate", made_graph, instantiate, destroyed},
    {"cuGraphInstantiate_v2", made_graph, instantiate_v2, destroyed},
    {"cuGraphInstantiateWithFlags", made_graph, instantiate_flags, destroyed},
    {"cuGraphInstantiateWithParams", made_graph, instantiate_params, destroyed},
    {"cuGraphInstantiateWithParams_ptsz", made_graph, instantiate_params_ptsz, destroyed},
    {"cuGraphUpload", executable, upload, destroyed},
    {"cuGraphUpload_ptsz", executable, upload_ptsz, destroyed},
    {"cuGraphLaunch", executable, launch, destroyed},
    {"cuGraphLaunch_ptsz", executable, launch_ptsz, destroyed},
    {"cuDeviceGraphMemTrim", idle, trim, nothing},
    {NULL, NULL, NULL, NULL},
};

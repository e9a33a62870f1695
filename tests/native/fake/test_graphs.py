"""Graphs: their nodes and edges, what running them does, and the memory behind their allocation nodes."""

import struct
from typing import Any

from tests.native.fake.conftest import Model
from tests.native.fake.cuda_process import (
    INVALID_VALUE,
    MIB,
    NULL,
    OUT_I32,
    OUT_OF_MEMORY,
    OUT_U64,
    CudaProcess,
    buffer,
    i32,
    memory,
    u32,
    u64,
)

USED, USED_HIGH, RESERVED, RESERVED_HIGH = range(4)
AUTO_FREE, UPLOAD = 1, 2
ALLOC_NODE, FREE_NODE = 10, 11
BLOCK = 32 * MIB


def new_graph(cuda: CudaProcess) -> int:
    return int(cuda.check("cuGraphCreate", OUT_U64, u32(0))[0])


def nodes(*handles: int) -> list[Any]:
    return memory(struct.pack(f"<{len(handles)}Q", *handles)) if handles else NULL


def alloc_params(size: int, device: int = 0) -> bytes:
    """CUDA_MEM_ALLOC_NODE_PARAMS: pool properties, access descriptors, size, address."""
    return struct.pack("<iiiiQQ", 1, 0, 1, device, 0, 0) + bytes(56) + struct.pack("<QQQQ", 0, 0, size, 0)


def add_alloc(cuda: CudaProcess, graph: int, size: int, *after: int) -> tuple[int, int]:
    """(node, address)"""
    node = cuda.check(
        "cuGraphAddMemAllocNode", OUT_U64, u64(graph), nodes(*after), u64(len(after)), memory(alloc_params(size))
    )[0]
    (params,) = cuda.check("cuGraphMemAllocNodeGetParams", u64(node), buffer(120))
    return int(node), int(struct.unpack("<Q", bytes.fromhex(params)[-8:])[0])


def add_free(cuda: CudaProcess, graph: int, address: int, *after: int) -> int:
    return int(
        cuda.check("cuGraphAddMemFreeNode", OUT_U64, u64(graph), nodes(*after), u64(len(after)), u64(address))[0]
    )


def add_fill(cuda: CudaProcess, graph: int, address: int, value: int, size: int, *after: int) -> int:
    params = memory(struct.pack("<QQIIQQ", address, 0, value, 1, size, 1))
    return int(
        cuda.check("cuGraphAddMemsetNode", OUT_U64, u64(graph), nodes(*after), u64(len(after)), params, u64(0))[0]
    )


def instantiate(cuda: CudaProcess, graph: int, flags: int = 0) -> int:
    return int(cuda.check("cuGraphInstantiateWithFlags", OUT_U64, u64(graph), u64(flags))[0])


def new_stream(cuda: CudaProcess) -> int:
    return int(cuda.check("cuStreamCreate", OUT_U64, u32(1))[0])


def launch(cuda: CudaProcess, executable: int, stream: int) -> None:
    cuda.check("cuGraphLaunch", u64(executable), u64(stream))


def attribute(cuda: CudaProcess, number: int, device: int = 0) -> int:
    return int(cuda.check("cuDeviceGetGraphMemAttribute", i32(device), i32(number), OUT_U64)[0])


def temporary(cuda: CudaProcess, size: int) -> int:
    """A graph that allocates and frees."""
    graph = new_graph(cuda)
    node, address = add_alloc(cuda, graph, size)
    add_free(cuda, graph, address, node)
    return graph


def lasting(cuda: CudaProcess, size: int) -> tuple[int, int]:
    """(graph, address) of a graph that allocates and does not free."""
    graph = new_graph(cuda)
    return graph, add_alloc(cuda, graph, size)[1]


def test_nodes_run_in_the_order_of_their_edges(cuda: CudaProcess) -> None:
    address = cuda.allocate(MIB)
    graph = new_graph(cuda)
    last = add_fill(cuda, graph, address, ord("b"), 2)
    first = add_fill(cuda, graph, address, ord("a"), 4)
    cuda.check("cuGraphAddDependencies", u64(graph), nodes(first), nodes(last), u64(1))
    executable = instantiate(cuda, graph)
    assert cuda.read(address, 4) == bytes(4)
    stream = new_stream(cuda)
    launch(cuda, executable, stream)
    cuda.check("cuStreamSynchronize", u64(stream))
    assert cuda.read(address, 4) == b"bbaa"


def test_what_a_graph_consists_of_can_be_asked(cuda: CudaProcess) -> None:
    graph = new_graph(cuda)
    first = int(cuda.check("cuGraphAddEmptyNode", OUT_U64, u64(graph), NULL, u64(0))[0])
    second = int(cuda.check("cuGraphAddEmptyNode", OUT_U64, u64(graph), nodes(first), u64(1))[0])
    (found, count) = cuda.check("cuGraphGetNodes", u64(graph), buffer(24), buffer_of(3))
    assert struct.unpack("<3Q", bytes.fromhex(found)) == (first, second, 0)
    assert int.from_bytes(bytes.fromhex(count), "little") == 2
    assert cuda.check("cuGraphGetRootNodes", u64(graph), NULL, OUT_U64) == [1]
    assert cuda.check("cuGraphNodeGetType", u64(second), OUT_I32) == [5]
    assert cuda.check("cuGraphNodeGetDependencies", u64(second), NULL, OUT_U64) == [1]
    assert cuda.check("cuGraphNodeGetDependentNodes", u64(first), NULL, OUT_U64) == [1]
    assert cuda.check("cuGraphGetEdges", u64(graph), NULL, NULL, OUT_U64) == [1]


def buffer_of(value: int) -> list[Any]:
    """An in-out count: its memory comes back as a buffer that starts with `value`."""
    return ["inout", struct.pack("<Q", value).hex()]


def test_a_cycle_can_not_be_instantiated(cuda: CudaProcess) -> None:
    graph = new_graph(cuda)
    first = int(cuda.check("cuGraphAddEmptyNode", OUT_U64, u64(graph), NULL, u64(0))[0])
    second = int(cuda.check("cuGraphAddEmptyNode", OUT_U64, u64(graph), nodes(first), u64(1))[0])
    cuda.check("cuGraphAddDependencies", u64(graph), nodes(second), nodes(first), u64(1))
    assert cuda.call("cuGraphInstantiateWithFlags", OUT_U64, u64(graph), u64(0)).rc == INVALID_VALUE
    reply = cuda.call("cuGraphInstantiateWithParams", OUT_U64, u64(graph), ["inout", bytes(32).hex()])
    assert reply.rc == INVALID_VALUE
    assert struct.unpack("<i", bytes.fromhex(reply.out[1])[24:28]) == (2,)


def test_a_child_graph_is_a_copy(cuda: CudaProcess) -> None:
    address = cuda.allocate(MIB)
    child = new_graph(cuda)
    fill = add_fill(cuda, child, address, ord("c"), 1)
    graph = new_graph(cuda)
    cuda.check("cuGraphAddChildGraphNode", OUT_U64, u64(graph), NULL, u64(0), u64(child))
    changed = memory(struct.pack("<QQIIQQ", address, 0, ord("x"), 1, 1, 1))
    cuda.check("cuGraphMemsetNodeSetParams", u64(fill), changed)
    cuda.check("cuGraphDestroy", u64(child))
    launch(cuda, instantiate(cuda, graph), 0)
    assert cuda.read(address, 1) == b"c"


def test_an_executable_graph_takes_new_parameters(cuda: CudaProcess) -> None:
    address = cuda.allocate(MIB)
    graph = new_graph(cuda)
    fill = add_fill(cuda, graph, address, ord("1"), 1)
    executable = instantiate(cuda, graph)
    cuda.check("cuGraphMemsetNodeSetParams", u64(fill), memory(struct.pack("<QQIIQQ", address, 0, ord("2"), 1, 1, 1)))
    launch(cuda, executable, 0)
    assert cuda.read(address, 1) == b"1"
    cuda.check("cuGraphExecUpdate_v2", u64(executable), u64(graph), ["inout", bytes(24).hex()])
    launch(cuda, executable, 0)
    assert cuda.read(address, 1) == b"2"
    other = new_graph(cuda)
    assert cuda.call("cuGraphExecUpdate_v2", u64(executable), u64(other), ["inout", bytes(24).hex()]).rc == 910


def test_memory_comes_with_the_first_upload_or_launch(cuda: CudaProcess) -> None:
    free, _ = cuda.memory_info()
    graph = temporary(cuda, 64 * MIB)
    executable = instantiate(cuda, graph)
    assert (attribute(cuda, RESERVED), attribute(cuda, USED), cuda.memory_info()[0]) == (0, 0, free)
    stream = new_stream(cuda)
    cuda.check("cuGraphUpload", u64(executable), u64(stream))
    assert (attribute(cuda, RESERVED), attribute(cuda, USED)) == (64 * MIB, 64 * MIB)
    assert cuda.memory_info()[0] == free - 64 * MIB
    launch(cuda, executable, stream)
    launch(cuda, executable, stream)
    assert attribute(cuda, RESERVED) == 64 * MIB


def test_instantiation_can_upload(cuda: CudaProcess) -> None:
    graph = temporary(cuda, 64 * MIB)
    params = struct.pack("<QQQiI", UPLOAD, new_stream(cuda), 0, 0, 0)
    cuda.check("cuGraphInstantiateWithParams", OUT_U64, u64(graph), memory(params))
    assert attribute(cuda, RESERVED) == 64 * MIB
    assert cuda.call("cuGraphInstantiateWithFlags", OUT_U64, u64(new_graph(cuda)), u64(UPLOAD)).rc == INVALID_VALUE


def test_graphs_of_one_stream_share_memory_and_of_two_do_not(cuda: CudaProcess) -> None:
    first, second = (instantiate(cuda, temporary(cuda, 64 * MIB)) for _ in range(2))
    stream, other = new_stream(cuda), new_stream(cuda)
    launch(cuda, first, stream)
    launch(cuda, second, stream)
    assert attribute(cuda, RESERVED) == 64 * MIB
    launch(cuda, second, other)
    assert attribute(cuda, RESERVED) == 128 * MIB


def test_memory_outlives_the_graph_until_it_is_trimmed(cuda: CudaProcess) -> None:
    free, _ = cuda.memory_info()
    graph = temporary(cuda, 64 * MIB)
    executable = instantiate(cuda, graph)
    launch(cuda, executable, new_stream(cuda))
    cuda.check("cuGraphExecDestroy", u64(executable))
    cuda.check("cuGraphDestroy", u64(graph))
    assert (attribute(cuda, RESERVED), attribute(cuda, USED)) == (64 * MIB, 0)
    cuda.check("cuDeviceGraphMemTrim", i32(0))
    assert attribute(cuda, RESERVED) == 0
    assert attribute(cuda, RESERVED_HIGH) == 64 * MIB
    assert cuda.memory_info()[0] == free
    cuda.check("cuDeviceSetGraphMemAttribute", i32(0), i32(RESERVED_HIGH), memory(bytes(8)))
    assert attribute(cuda, RESERVED_HIGH) == 0


def test_one_place_serves_allocations_that_follow_each_other(cuda: CudaProcess) -> None:
    graph = new_graph(cuda)
    node, address = add_alloc(cuda, graph, 64 * MIB)
    freed = add_free(cuda, graph, address, node)
    node, again = add_alloc(cuda, graph, 48 * MIB, freed)
    add_free(cuda, graph, again, node)
    _, beside = add_alloc(cuda, graph, 48 * MIB)
    assert again == address
    assert beside != address
    launch(cuda, instantiate(cuda, graph), new_stream(cuda))
    assert attribute(cuda, RESERVED) == 128 * MIB
    assert attribute(cuda, USED) == 112 * MIB


def test_a_launch_is_refused_while_its_last_allocation_lives(cuda: CudaProcess) -> None:
    graph, address = lasting(cuda, 4 * MIB)
    executable = instantiate(cuda, graph)
    stream = new_stream(cuda)
    launch(cuda, executable, stream)
    cuda.write(address, b"graph")
    assert cuda.read(address, 5) == b"graph"
    assert cuda.call("cuGraphLaunch", u64(executable), u64(stream)).rc == INVALID_VALUE
    cuda.check("cuMemFreeAsync", u64(address), u64(stream))
    launch(cuda, executable, stream)
    cuda.free(address)
    launch(cuda, executable, stream)


def test_a_graph_can_free_before_it_runs_again(cuda: CudaProcess) -> None:
    graph, _ = lasting(cuda, 4 * MIB)
    executable = instantiate(cuda, graph, AUTO_FREE)
    stream = new_stream(cuda)
    launch(cuda, executable, stream)
    launch(cuda, executable, stream)
    assert attribute(cuda, RESERVED) == BLOCK


def test_what_lives_is_not_trimmed(cuda: CudaProcess) -> None:
    graph, address = lasting(cuda, 4 * MIB)
    executable = instantiate(cuda, graph)
    launch(cuda, executable, new_stream(cuda))
    cuda.check("cuGraphExecDestroy", u64(executable))
    cuda.check("cuGraphDestroy", u64(graph))
    cuda.check("cuDeviceGraphMemTrim", i32(0))
    assert attribute(cuda, RESERVED) == 4 * MIB
    cuda.write(address, b"still")
    cuda.free(address)
    cuda.check("cuDeviceGraphMemTrim", i32(0))
    assert attribute(cuda, RESERVED) == 0


def test_another_graph_can_free(cuda: CudaProcess) -> None:
    graph, address = lasting(cuda, 4 * MIB)
    freeing = new_graph(cuda)
    add_free(cuda, freeing, address)
    stream = new_stream(cuda)
    executable, second = instantiate(cuda, graph), instantiate(cuda, freeing)
    assert cuda.call("cuGraphLaunch", u64(second), u64(stream)).rc == INVALID_VALUE
    for _ in range(2):
        launch(cuda, executable, stream)
        launch(cuda, second, stream)


def test_what_graphs_with_memory_can_not_do(cuda: CudaProcess) -> None:
    graph = new_graph(cuda)
    node, address = add_alloc(cuda, graph, MIB)
    freed = add_free(cuda, graph, address, node)
    arguments = u64(graph), NULL, u64(0)
    assert cuda.call("cuGraphAddMemFreeNode", OUT_U64, *arguments, u64(address)).rc == INVALID_VALUE
    assert cuda.call("cuGraphAddMemFreeNode", OUT_U64, *arguments, u64(cuda.allocate(MIB))).rc == INVALID_VALUE
    assert cuda.call("cuGraphClone", OUT_U64, u64(graph)).rc != 0
    assert cuda.call("cuGraphDestroyNode", u64(freed)).rc != 0
    assert cuda.call("cuGraphAddChildGraphNode", OUT_U64, u64(new_graph(cuda)), NULL, u64(0), u64(graph)).rc != 0
    executable = instantiate(cuda, graph)
    assert cuda.call("cuGraphInstantiateWithFlags", OUT_U64, u64(graph), u64(0)).rc == INVALID_VALUE
    cuda.check("cuGraphExecDestroy", u64(executable))
    instantiate(cuda, graph)


def test_memory_that_is_not_there(cuda: CudaProcess, model: Model) -> None:
    stream = new_stream(cuda)
    idle = instantiate(cuda, temporary(cuda, 600 * MIB))
    launch(cuda, idle, stream)
    # Another stream's idle memory is given up for it.
    large = instantiate(cuda, temporary(cuda, 800 * MIB))
    launch(cuda, large, new_stream(cuda))
    assert attribute(cuda, RESERVED) == 800 * MIB
    too_large = instantiate(cuda, temporary(cuda, 1100 * MIB))
    assert cuda.call("cuGraphLaunch", u64(too_large), u64(stream)).rc == OUT_OF_MEMORY
    assert model.usage().peak_used_bytes <= 1024 * MIB


def test_a_host_function_runs_at_each_launch(cuda: CudaProcess) -> None:
    found = cuda.python("""
calls = []
FUNCTION = ctypes.CFUNCTYPE(None, ctypes.c_void_p)
def note(data):
    calls.append(data)
function = FUNCTION(note)
class Params(ctypes.Structure):
    _fields_ = [("function", FUNCTION), ("data", ctypes.c_void_p)]
graph, node, executable = (ctypes.c_void_p() for _ in range(3))
assert cuda.cuGraphCreate(ctypes.byref(graph), 0) == 0
params = Params(function, 7)
assert cuda.cuGraphAddHostNode(ctypes.byref(node), graph, None, ctypes.c_size_t(0), ctypes.byref(params)) == 0
assert cuda.cuGraphInstantiateWithFlags(ctypes.byref(executable), graph, ctypes.c_ulonglong(0)) == 0
before = list(calls)
assert cuda.cuGraphLaunch(executable, None) == 0
assert cuda.cuGraphLaunch(executable, None) == 0
assert cuda.cuCtxSynchronize() == 0
result = [before, calls]
""")
    assert found == [[], [7, 7]]

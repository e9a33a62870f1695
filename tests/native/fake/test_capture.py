"""Stream capture: what becomes a node, what is forbidden meanwhile, and how a capture ends."""

import struct
from typing import Any

import pytest

from tests.native.fake.cuda_process import INVALID_VALUE, MIB, NULL, OUT_I32, OUT_U64, CudaProcess, i32, u32, u64
from tests.native.fake.test_graphs import (
    ALLOC_NODE,
    FREE_NODE,
    RESERVED,
    attribute,
    instantiate,
    launch,
    new_graph,
    new_stream,
    nodes,
)

GLOBAL, THREAD_LOCAL, RELAXED = range(3)
NONE, ACTIVE, INVALIDATED = range(3)
ILLEGAL_STATE, UNSUPPORTED, IS_INVALIDATED, MERGE, UNMATCHED, UNJOINED = 401, 900, 901, 902, 903, 904
ISOLATION, IMPLICIT, CAPTURED_EVENT, WRONG_THREAD = 905, 906, 907, 908


def begin(cuda: CudaProcess, mode: int = GLOBAL, stream: int | None = None) -> int:
    stream = new_stream(cuda) if stream is None else stream
    cuda.check("cuStreamBeginCapture_v2", u64(stream), i32(mode))
    return stream


def end(cuda: CudaProcess, stream: int) -> int:
    return int(cuda.check("cuStreamEndCapture", u64(stream), OUT_U64)[0])


def end_code(cuda: CudaProcess, stream: int) -> int:
    return cuda.call("cuStreamEndCapture", u64(stream), OUT_U64).rc


def status(cuda: CudaProcess, stream: int) -> int:
    return int(cuda.check("cuStreamIsCapturing", u64(stream), OUT_I32)[0])


def types(cuda: CudaProcess, graph: int) -> list[int]:
    (found, count) = cuda.check("cuGraphGetNodes", u64(graph), ["buffer", 80], ["inout", struct.pack("<Q", 10).hex()])
    handles = struct.unpack("<10Q", bytes.fromhex(found))[: int.from_bytes(bytes.fromhex(count), "little")]
    return [int(cuda.check("cuGraphNodeGetType", u64(node), OUT_I32)[0]) for node in handles]


def new_event(cuda: CudaProcess) -> int:
    return int(cuda.check("cuEventCreate", OUT_U64, u32(2))[0])


def test_work_is_noted_down_and_done_by_the_graph(cuda: CudaProcess) -> None:
    address, host = cuda.allocate(MIB), int(cuda.check("cuMemHostAlloc", OUT_U64, u64(4096), u32(0))[0])
    stream = begin(cuda)
    assert status(cuda, stream) == ACTIVE
    cuda.check("cuMemsetD8Async", u64(address), u32(ord("k")), u64(2), u64(stream))
    cuda.check("cuMemcpyDtoHAsync_v2", u64(host), u64(address), u64(2), u64(stream))
    graph = end(cuda, stream)
    assert status(cuda, stream) == NONE
    assert cuda.read(address, 2) == bytes(2)
    assert types(cuda, graph) == [2, 1]
    assert cuda.check("cuGraphGetEdges", u64(graph), NULL, NULL, OUT_U64) == [1]
    launch(cuda, instantiate(cuda, graph), stream)
    cuda.check("cuStreamSynchronize", u64(stream))
    assert cuda.python(f"result = ctypes.string_at({host}, 2).decode()") == "kk"


def test_allocations_become_nodes(cuda: CudaProcess) -> None:
    free, _ = cuda.memory_info()
    stream = begin(cuda)
    (address,) = cuda.check("cuMemAllocAsync", OUT_U64, u64(64 * MIB), u64(stream))
    cuda.check("cuMemsetD8Async", u64(address), u32(1), u64(2), u64(stream))
    cuda.check("cuMemFreeAsync", u64(address), u64(stream))
    graph = end(cuda, stream)
    assert types(cuda, graph) == [ALLOC_NODE, 2, FREE_NODE]
    assert cuda.memory_info()[0] == free
    launch(cuda, instantiate(cuda, graph), stream)
    assert attribute(cuda, RESERVED) == 64 * MIB


def test_a_capture_can_go_into_a_graph(cuda: CudaProcess) -> None:
    graph, stream = new_graph(cuda), new_stream(cuda)
    first = int(cuda.check("cuGraphAddEmptyNode", OUT_U64, u64(graph), NULL, u64(0))[0])
    cuda.check("cuStreamBeginCaptureToGraph", u64(stream), u64(graph), nodes(first), NULL, u64(1), i32(GLOBAL))
    assert cuda.call("cuGraphInstantiateWithFlags", OUT_U64, u64(graph), u64(0)).rc == INVALID_VALUE
    cuda.check("cuMemAllocAsync", OUT_U64, u64(MIB), u64(stream))
    assert end(cuda, stream) == graph
    assert types(cuda, graph) == [5, ALLOC_NODE]
    assert cuda.check("cuGraphGetEdges", u64(graph), NULL, NULL, OUT_U64) == [1]


def test_what_a_capture_tells(cuda: CudaProcess) -> None:
    stream = begin(cuda)
    cuda.check("cuMemAllocAsync", OUT_U64, u64(MIB), u64(stream))
    state, number, graph, last, count = cuda.check(
        "cuStreamGetCaptureInfo_v2", u64(stream), OUT_I32, OUT_U64, OUT_U64, OUT_U64, OUT_U64
    )
    assert (state, count) == (ACTIVE, 1)
    assert number > 0
    assert last != 0
    empty = int(cuda.check("cuGraphAddEmptyNode", OUT_U64, u64(graph), NULL, u64(0))[0])
    cuda.check("cuStreamUpdateCaptureDependencies", u64(stream), nodes(empty), u64(1), u32(0))
    assert cuda.check("cuStreamGetCaptureInfo_v2", u64(stream), OUT_I32, NULL, NULL, NULL, OUT_U64) == [ACTIVE, 2]
    cuda.check("cuStreamUpdateCaptureDependencies", u64(stream), nodes(empty), u64(1), u32(1))
    assert cuda.check("cuStreamGetCaptureInfo_v2", u64(stream), OUT_I32, NULL, NULL, NULL, OUT_U64) == [ACTIVE, 1]
    assert end(cuda, stream) == graph


def test_other_streams_take_part_by_events(cuda: CudaProcess) -> None:
    stream, other, event, back = begin(cuda), new_stream(cuda), new_event(cuda), new_event(cuda)
    cuda.check("cuEventRecord", u64(event), u64(stream))
    cuda.check("cuStreamWaitEvent", u64(other), u64(event), u32(0))
    assert status(cuda, other) == ACTIVE
    cuda.check("cuMemAllocAsync", OUT_U64, u64(MIB), u64(other))
    assert cuda.call("cuStreamEndCapture", u64(other), OUT_U64).rc == UNMATCHED
    assert end_code(cuda, stream) == IS_INVALIDATED
    # The same, joined and not joined.
    for joins in (True, False):
        begin(cuda, stream=stream)
        cuda.check("cuEventRecord", u64(event), u64(stream))
        cuda.check("cuStreamWaitEvent", u64(other), u64(event), u32(0))
        cuda.check("cuMemAllocAsync", OUT_U64, u64(MIB), u64(other))
        if joins:
            cuda.check("cuEventRecord", u64(back), u64(other))
            cuda.check("cuStreamWaitEvent", u64(stream), u64(back), u32(0))
        assert end_code(cuda, stream) == (0 if joins else UNJOINED)
        assert status(cuda, other) == NONE


def test_dependencies_do_not_cross_the_border_of_a_capture(cuda: CudaProcess) -> None:
    stream, other, event = new_stream(cuda), new_stream(cuda), new_event(cuda)
    cuda.check("cuEventRecord", u64(event), u64(other))
    begin(cuda, stream=stream)
    assert cuda.call("cuStreamWaitEvent", u64(stream), u64(event), u32(0)).rc == ISOLATION
    assert end_code(cuda, stream) == IS_INVALIDATED
    begin(cuda, stream=stream)
    begin(cuda, stream=other)
    cuda.check("cuEventRecord", u64(event), u64(other))
    assert cuda.call("cuStreamWaitEvent", u64(stream), u64(event), u32(0)).rc == MERGE
    assert [end_code(cuda, stream), end_code(cuda, other)] == [IS_INVALIDATED] * 2


UNSAFE: list[tuple[str, list[Any]]] = [
    ("cuMemAlloc_v2", [OUT_U64, u64(MIB)]),
    ("cuMemAllocManaged", [OUT_U64, u64(MIB), u32(1)]),
    ("cuMemFree_v2", [u64(0)]),
    ("cuMemHostAlloc", [OUT_U64, u64(4096), u32(0)]),
    ("cuCtxSynchronize", []),
]


@pytest.mark.parametrize(("name", "arguments"), UNSAFE, ids=[name for name, _ in UNSAFE])
def test_what_is_unsafe_breaks_a_capture(cuda: CudaProcess, name: str, arguments: list[Any]) -> None:
    stream = begin(cuda)
    assert cuda.call(name, *arguments).rc == UNSUPPORTED
    assert status(cuda, stream) == INVALIDATED
    assert cuda.call("cuMemAllocAsync", OUT_U64, u64(MIB), u64(stream)).rc == IS_INVALIDATED
    reply = cuda.call("cuStreamEndCapture", u64(stream), OUT_U64)
    assert (reply.rc, reply.out) == (IS_INVALIDATED, [0])
    assert status(cuda, stream) == NONE
    assert cuda.call(name, *arguments).rc == 0


def test_a_thread_may_take_the_risk(cuda: CudaProcess) -> None:
    stream = begin(cuda)
    mode = ["inout", struct.pack("<i", RELAXED).hex()]
    (previous,) = cuda.check("cuThreadExchangeStreamCaptureMode", mode)
    assert previous == struct.pack("<i", GLOBAL).hex()
    cuda.free(cuda.allocate(MIB))
    cuda.check("cuThreadExchangeStreamCaptureMode", ["inout", previous])
    end(cuda, stream)
    stream = begin(cuda, RELAXED)
    cuda.free(cuda.allocate(MIB))
    end(cuda, stream)


IN_ANOTHER_THREAD = """
import threading
def work():
    global result
    mode = ctypes.c_int({mode})
    assert cuda.cuCtxSetCurrent(ctypes.c_void_p({context})) == 0
    assert cuda.cuThreadExchangeStreamCaptureMode(ctypes.byref(mode)) == 0
    address = ctypes.c_uint64()
    result = [cuda.cuMemAlloc_v2(ctypes.byref(address), ctypes.c_size_t(1 << 20)),
              cuda.cuStreamEndCapture(ctypes.c_void_p({stream}), ctypes.byref(address))]
thread = threading.Thread(target=work)
thread.start()
thread.join()
"""


@pytest.mark.parametrize(
    ("capture", "thread", "allocation", "ending"),
    [
        (GLOBAL, GLOBAL, UNSUPPORTED, IS_INVALIDATED),
        (GLOBAL, THREAD_LOCAL, 0, 0),
        (GLOBAL, RELAXED, 0, 0),
        (THREAD_LOCAL, GLOBAL, 0, 0),
    ],
)
def test_other_threads(cuda: CudaProcess, capture: int, thread: int, allocation: int, ending: int) -> None:
    (context,) = cuda.check("cuCtxGetCurrent", OUT_U64)
    stream = begin(cuda, capture)
    found = cuda.python(IN_ANOTHER_THREAD.format(mode=thread, context=context, stream=stream))
    assert found == [allocation, WRONG_THREAD]
    assert end_code(cuda, stream) == ending


def test_a_relaxed_capture_may_end_in_another_thread(cuda: CudaProcess) -> None:
    (context,) = cuda.check("cuCtxGetCurrent", OUT_U64)
    stream = begin(cuda, RELAXED)
    assert cuda.python(IN_ANOTHER_THREAD.format(mode=GLOBAL, context=context, stream=stream)) == [0, 0]


@pytest.mark.parametrize("mode", [GLOBAL, RELAXED])
def test_what_captures_can_not_be_waited_for(cuda: CudaProcess, mode: int) -> None:
    stream, event = begin(cuda, mode), new_event(cuda)
    assert cuda.call("cuStreamSynchronize", u64(stream)).rc == UNSUPPORTED
    assert end_code(cuda, stream) == IS_INVALIDATED
    begin(cuda, mode, stream)
    cuda.check("cuEventRecord", u64(event), u64(stream))
    assert cuda.call("cuEventQuery", u64(event)).rc == (UNSUPPORTED if mode == GLOBAL else CAPTURED_EVENT)
    assert end_code(cuda, stream) == IS_INVALIDATED


def test_the_legacy_stream_and_a_blocking_stream_that_captures(cuda: CudaProcess) -> None:
    assert cuda.call("cuStreamBeginCapture_v2", u64(0), i32(GLOBAL)).rc == UNSUPPORTED
    stream = int(cuda.check("cuStreamCreate", OUT_U64, u32(0))[0])
    begin(cuda, stream=stream)
    assert cuda.call("cuStreamIsCapturing", u64(0), OUT_I32).rc == IMPLICIT
    assert status(cuda, stream) == ACTIVE
    assert cuda.call("cuMemAllocAsync", OUT_U64, u64(MIB), u64(0)).rc == IMPLICIT
    assert end_code(cuda, stream) == IS_INVALIDATED


def test_the_default_stream_of_a_thread_can_capture(cuda: CudaProcess) -> None:
    cuda.check("cuStreamBeginCapture_v2_ptsz", u64(0), i32(GLOBAL))
    cuda.check("cuMemAllocAsync", OUT_U64, u64(MIB), u64(2))
    assert status(cuda, 2) == ACTIVE
    cuda.check("cuMemAllocAsync", OUT_U64, u64(MIB), u64(0))
    (graph,) = cuda.check("cuStreamEndCapture", u64(2), OUT_U64)
    assert types(cuda, graph) == [ALLOC_NODE]


def test_a_launch_becomes_a_child_graph(cuda: CudaProcess) -> None:
    graph = new_graph(cuda)
    cuda.check("cuGraphAddEmptyNode", OUT_U64, u64(graph), NULL, u64(0))
    executable = instantiate(cuda, graph)
    stream = begin(cuda)
    launch(cuda, executable, stream)
    assert types(cuda, end(cuda, stream)) == [4]


def test_beginning_and_ending_have_their_order(cuda: CudaProcess) -> None:
    stream = begin(cuda)
    assert cuda.call("cuStreamBeginCapture_v2", u64(stream), i32(GLOBAL)).rc == ILLEGAL_STATE
    end(cuda, stream)
    assert end_code(cuda, stream) == ILLEGAL_STATE
    assert cuda.call("cuStreamBeginCapture_v2", u64(stream), i32(3)).rc == INVALID_VALUE

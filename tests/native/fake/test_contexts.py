"""Contexts, their stack, the primary context, streams and events."""

from collections.abc import Callable
from typing import Any

import pytest

from tests.native.fake.cuda_process import (
    CONTEXT_DESTROYED,
    INVALID_CONTEXT,
    INVALID_DEVICE,
    INVALID_HANDLE,
    INVALID_VALUE,
    MIB,
    NULL,
    OUT_I32,
    OUT_OF_MEMORY,
    OUT_U32,
    OUT_U64,
    CudaProcess,
    i32,
    u32,
    u64,
)

Spawn = Callable[..., CudaProcess]
CONTEXT = 16 * MIB


def initialised(spawn: Spawn) -> CudaProcess:
    process = spawn()
    process.check("cuInit", u32(0))
    return process


def state(cuda: CudaProcess) -> list[int]:
    return cuda.check("cuDevicePrimaryCtxGetState", i32(0), OUT_U32, OUT_I32)


def test_the_primary_context_is_counted(spawn: Spawn) -> None:
    cuda = initialised(spawn)
    assert state(cuda)[1] == 0
    (first,) = cuda.check("cuDevicePrimaryCtxRetain", OUT_U64, i32(0))
    (second,) = cuda.check("cuDevicePrimaryCtxRetain", OUT_U64, i32(0))
    assert first == second
    cuda.check("cuDevicePrimaryCtxRelease_v2", i32(0))
    assert state(cuda)[1] == 1
    cuda.check("cuDevicePrimaryCtxRelease_v2", i32(0))
    assert state(cuda)[1] == 0
    assert cuda.call("cuDevicePrimaryCtxRelease_v2", i32(0)).rc == INVALID_CONTEXT


def test_a_reset_frees_everything_and_keeps_the_references(spawn: Spawn, model: Any) -> None:
    cuda = spawn().start()
    cuda.allocate(64 * MIB)
    cuda.allocate(100)
    cuda.check("cuDevicePrimaryCtxReset_v2", i32(0))
    assert model.usage().used_bytes == 0
    assert state(cuda)[1] == 0
    assert cuda.call("cuMemAlloc_v2", OUT_U64, u64(512)).rc == CONTEXT_DESTROYED
    cuda.check("cuDevicePrimaryCtxRelease_v2", i32(0))
    cuda.start()
    assert model.usage().used_bytes == CONTEXT


def test_a_context_needs_memory(spawn: Spawn, model: Any) -> None:
    cuda = spawn().start()
    cuda.allocate(cuda.memory_info()[0] - 8 * MIB)
    assert cuda.call("cuCtxCreate_v2", OUT_U64, u32(0), i32(0)).rc == OUT_OF_MEMORY
    other = initialised(spawn)
    assert other.call("cuDevicePrimaryCtxRetain", OUT_U64, i32(0)).rc == OUT_OF_MEMORY
    assert state(other)[1] == 0


def test_the_stack_of_contexts(cuda: CudaProcess) -> None:
    (primary,) = cuda.check("cuCtxGetCurrent", OUT_U64)
    (own,) = cuda.check("cuCtxCreate_v2", OUT_U64, u32(0), i32(0))
    assert cuda.check("cuCtxGetCurrent", OUT_U64) == [own]
    cuda.check("cuCtxPushCurrent_v2", u64(primary))
    assert cuda.check("cuCtxPopCurrent_v2", OUT_U64) == [primary]
    assert cuda.check("cuCtxGetDevice", OUT_I32) == [0]
    cuda.check("cuCtxDestroy_v2", u64(own))
    assert cuda.check("cuCtxGetCurrent", OUT_U64) == [primary]
    cuda.check("cuCtxSetCurrent", u64(0))
    assert cuda.check("cuCtxGetCurrent", OUT_U64) == [0]
    assert cuda.call("cuCtxPopCurrent_v2", OUT_U64).rc == INVALID_CONTEXT


def test_destroying_a_context_frees_what_it_owned(cuda: CudaProcess) -> None:
    free, _ = cuda.memory_info()
    (context,) = cuda.check("cuCtxCreate_v2", OUT_U64, u32(0), i32(0))
    address = cuda.allocate(8 * MIB)
    cuda.allocate(8)
    cuda.check("cuCtxDestroy_v2", u64(context))
    assert cuda.memory_info()[0] == free
    assert cuda.call("cuMemFree_v2", u64(address)).rc == INVALID_VALUE
    assert cuda.call("cuCtxPushCurrent_v2", u64(context)).rc in (CONTEXT_DESTROYED, INVALID_CONTEXT)


def test_threads_have_their_own_current_context(cuda: CudaProcess) -> None:
    seen = cuda.python("""
import threading
seen = []
thread = threading.Thread(target=lambda: seen.append(call("cuCtxGetCurrent", ["out", "u64"])))
thread.start(); thread.join()
result = seen[0]["out"][0]
""")
    assert seen == 0


def test_the_context_of_the_second_device(spawn: Spawn, model: Any) -> None:
    cuda = spawn().start(device=1)
    assert cuda.check("cuCtxGetDevice", OUT_I32) == [1]
    cuda.allocate(4 * MIB)
    assert model.usage(0).used_bytes == 0
    assert model.usage(1).used_bytes == CONTEXT + 4 * MIB


@pytest.mark.parametrize(
    ("name", "arguments", "code"),
    [
        ("cuCtxCreate_v2", [NULL, u32(0), i32(0)], INVALID_VALUE),
        ("cuCtxCreate_v2", [OUT_U64, u32(0), i32(77)], INVALID_DEVICE),
        ("cuCtxCreate_v2", [OUT_U64, u32(1 << 20), i32(0)], INVALID_VALUE),
        ("cuDevicePrimaryCtxRetain", [OUT_U64, i32(77)], INVALID_DEVICE),
        ("cuStreamCreate", [NULL, u32(0)], INVALID_VALUE),
        ("cuStreamCreate", [OUT_U64, u32(64)], INVALID_VALUE),
        ("cuEventCreate", [OUT_U64, u32(64)], INVALID_VALUE),
    ],
    ids=["null", "device", "flags", "retain device", "stream null", "stream flags", "event flags"],
)
def test_bad_arguments(cuda: CudaProcess, name: str, arguments: list[Any], code: int) -> None:
    assert cuda.call(name, *arguments).rc == code


def test_streams_and_events(cuda: CudaProcess) -> None:
    (stream,) = cuda.check("cuStreamCreateWithPriority", OUT_U64, u32(1), i32(-1))
    assert cuda.check("cuStreamGetFlags", u64(stream), OUT_U32) == [1]
    assert cuda.check("cuStreamGetPriority", u64(stream), OUT_I32) == [-1]
    assert cuda.check("cuStreamIsCapturing", u64(stream), OUT_I32) == [0]
    (start,) = cuda.check("cuEventCreate", OUT_U64, u32(0))
    (end,) = cuda.check("cuEventCreate", OUT_U64, u32(0))
    cuda.check("cuEventRecord", u64(start), u64(stream))
    cuda.check("cuEventRecord_ptsz", u64(end), u64(stream))
    cuda.check("cuStreamWaitEvent", u64(stream), u64(end), u32(0))
    cuda.check("cuEventSynchronize", u64(end))
    cuda.check("cuEventQuery", u64(end))
    (milliseconds,) = cuda.check("cuEventElapsedTime", ["out", "f32"], u64(start), u64(end))
    assert milliseconds >= 0
    cuda.check("cuStreamSynchronize", u64(stream))
    for event in (start, end):
        cuda.check("cuEventDestroy_v2", u64(event))
    cuda.check("cuStreamDestroy_v2", u64(stream))


def test_stale_handles_are_recognised(spawn: Spawn, model: Any) -> None:
    cuda = spawn().start()
    (stream,) = cuda.check("cuStreamCreate", OUT_U64, u32(0))
    (event,) = cuda.check("cuEventCreate", OUT_U64, u32(0))
    cuda.check("cuStreamDestroy_v2", u64(stream))
    cuda.check("cuEventDestroy_v2", u64(event))
    assert cuda.call("cuStreamSynchronize", u64(stream)).rc == INVALID_HANDLE
    assert cuda.call("cuStreamDestroy_v2", u64(stream)).rc == INVALID_HANDLE
    assert cuda.call("cuEventQuery", u64(event)).rc == INVALID_HANDLE
    assert cuda.call("cuEventDestroy_v2", u64(event)).rc == INVALID_HANDLE


def test_an_event_that_was_never_recorded_has_no_time(cuda: CudaProcess) -> None:
    (event,) = cuda.check("cuEventCreate", OUT_U64, u32(0))
    assert cuda.call("cuEventElapsedTime", ["out", "f32"], u64(event), u64(event)).rc == INVALID_HANDLE


def test_host_functions_run(cuda: CudaProcess) -> None:
    ran = cuda.python("""
import threading
ran = threading.Event()
callback = ctypes.CFUNCTYPE(None, ctypes.c_void_p)(lambda data: ran.set())
rc = cuda.cuLaunchHostFunc(None, callback, None)
cuda.cuCtxSynchronize()
result = [rc, ran.is_set()]
""")
    assert ran == [0, True]

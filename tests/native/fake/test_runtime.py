"""NVIDIA's runtime library on the driver under test.

libcudart has the driver prove that it is NVIDIA's own (cudaErrorSoftwareValidityNotEstablished in its documentation).
The model is not and does not claim to be, so the runtime's own work is tested on real GPUs; here, that it is told so
cleanly.
"""

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

REAL = os.environ.get("FRACGPU_TEST_GPU") == "real"
MIB = 1 << 20


def library(relative: str) -> Path:
    spec = importlib.util.find_spec("nvidia")
    assert spec is not None
    assert spec.submodule_search_locations is not None
    return next(Path(place) / relative for place in spec.submodule_search_locations)


RUNTIMES = {"12": "cuda_runtime/lib/libcudart.so.12", "13": "cu13/lib/libcudart.so.13"}
PROGRAM = """
import ctypes, json, sys
lib = ctypes.CDLL(sys.argv[1])
lib.cudaGetErrorName.restype = ctypes.c_char_p
u64, pointer = ctypes.c_size_t, ctypes.c_void_p
codes = {}
def run(name, *arguments):
    codes[name] = getattr(lib, name)(*arguments)
    return codes[name]
count, free, total, after = ctypes.c_int(-1), u64(), u64(), u64()
run("cudaGetDeviceCount", ctypes.byref(count))
run("cudaMemGetInfo", ctypes.byref(free), ctypes.byref(total))
a, m, p, s, x, h, e, pitch = pointer(), pointer(), pointer(), pointer(), pointer(), pointer(), pointer(), u64()
run("cudaMalloc", ctypes.byref(a), u64(64 << 20))
lib.cudaMemGetInfo(ctypes.byref(after), ctypes.byref(total))
source, target = b"runtime!" * 8, ctypes.create_string_buffer(64)
if codes["cudaMalloc"] == 0:
    run("cudaMemcpy", a, source, u64(64), 1)
    run("cudaMemset", a, 65, u64(8))
    run("cudaMemcpy", target, a, u64(64), 2)
    run("cudaMallocManaged", ctypes.byref(m), u64(1 << 20), 1)
    run("cudaMallocPitch", ctypes.byref(p), ctypes.byref(pitch), u64(1000), u64(10))
    run("cudaStreamCreate", ctypes.byref(s))
    run("cudaMallocAsync", ctypes.byref(x), u64(5 << 20), s)
    run("cudaFreeAsync", x, s)
    run("cudaStreamSynchronize", s)
    run("cudaMallocHost", ctypes.byref(h), u64(1 << 20))
    run("cudaEventCreate", ctypes.byref(e))
    run("cudaEventRecord", e, s)
    run("cudaEventSynchronize", e)
    run("cudaFree", a)
    run("cudaDeviceSynchronize")
print(json.dumps({"codes": codes, "count": count.value, "taken": free.value - after.value,
                  "target": target.raw.decode("latin-1"), "huge": lib.cudaMalloc(ctypes.byref(a), u64(1 << 46))}))
"""


def run(environment: dict[str, str], major: str) -> dict[str, Any]:
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, str(library(RUNTIMES[major]))],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        check=True,
    )
    result: dict[str, Any] = json.loads(done.stdout)
    return result


@pytest.mark.parametrize("major", RUNTIMES)
def test_the_runtime_works_on_a_real_gpu(major: str) -> None:
    if not REAL:
        pytest.skip("libcudart works on NVIDIA's own driver only")
    result = run({}, major)
    assert set(result["codes"].values()) == {0}
    assert result["count"] >= 1
    assert result["taken"] == 64 * MIB
    assert result["target"] == "A" * 8 + "runtime!" * 7
    assert result["huge"] == 2


@pytest.mark.parametrize("major", RUNTIMES)
def test_the_runtime_is_refused_cleanly_by_the_model(model: Any, major: str) -> None:
    result = run(model.environment, major)
    assert 0 not in result["codes"].values()
    assert result["huge"] != 0
    assert model.usage().peak_used_bytes == 0

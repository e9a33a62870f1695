"""NVIDIA's own implementation of the CUDA runtime API (cuda-bindings), unmodified, on the driver under test.

It is not ours, uses the driver the way runtimes do (primary context, cuGetProcAddress with versions and flags, stream
ordered pools), and runs on the public driver API alone: the best judge of the model there is without a GPU.
"""

import json
import os
import subprocess
import sys

MIB = 1 << 20
PROGRAM = """
import ctypes, json
from cuda.bindings import runtime as rt
def ok(reply):
    assert reply[0] == rt.cudaError_t.cudaSuccess, reply
    return None if len(reply) == 1 else reply[1] if len(reply) == 2 else reply[1:]
found = {"devices": ok(rt.cudaGetDeviceCount())}
ok(rt.cudaSetDevice(0))
before = ok(rt.cudaMemGetInfo())[0]
plain = ok(rt.cudaMalloc(64 << 20))
found["taken"] = before - ok(rt.cudaMemGetInfo())[0]
source, target = ctypes.create_string_buffer(b"runtime!" * 8, 64), ctypes.create_string_buffer(64)
kind = rt.cudaMemcpyKind
ok(rt.cudaMemcpy(plain, ctypes.addressof(source), 64, kind.cudaMemcpyHostToDevice))
ok(rt.cudaMemset(plain, 65, 8))
ok(rt.cudaMemcpy(ctypes.addressof(target), plain, 64, kind.cudaMemcpyDeviceToHost))
found["target"] = target.raw.decode()
managed = ok(rt.cudaMallocManaged(1 << 20, rt.cudaMemAttachGlobal))
rows, pitch = ok(rt.cudaMallocPitch(1000, 10))
found["pitched"] = pitch >= 1000
stream = ok(rt.cudaStreamCreate())
ordered = ok(rt.cudaMallocAsync(5 << 20, stream))
ok(rt.cudaFreeAsync(ordered, stream))
ok(rt.cudaStreamSynchronize(stream))
pinned = ok(rt.cudaMallocHost(1 << 20))
event = ok(rt.cudaEventCreate())
ok(rt.cudaEventRecord(event, stream))
ok(rt.cudaEventSynchronize(event))
for pointer in (plain, managed, rows):
    ok(rt.cudaFree(pointer))
ok(rt.cudaFreeHost(pinned))
ok(rt.cudaDeviceSynchronize())
found["left"] = before - ok(rt.cudaMemGetInfo())[0]
found["refused"] = int(rt.cudaMalloc(1 << 50)[0])
print(json.dumps(found))
"""


def test_nvidias_runtime_api(environment: dict[str, str]) -> None:
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM], env={**os.environ, **environment}, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found.pop("devices") >= 1
    assert found == {
        "taken": 64 * MIB,
        "target": "A" * 8 + "runtime!" * 7,
        "pitched": True,
        "left": 0,
        "refused": 2,
    }

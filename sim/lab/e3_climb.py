"""Exercise 3: both pods allocate until they are refused: at their own slice, at the same time, on a card mostly free.

Both programs keep what they have until both were refused, so that one pod's memory cannot be what the other was given.

They do so twice. First through the CUDA driver API, which is where every CUDA program ends up; then through the CUDA
runtime API (cudaMalloc) as NVIDIA's cuda-bindings 12.8 implement it on the driver's public functions. NVIDIA's
libcudart cannot be used here: it insists on a driver that proves to be NVIDIA's own, and a simulated GPU has none.
"""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from fracgpu.native.fake_gpu import FakeGpuUsage, read_usage
from fracgpu.native.state_file import read_state_file
from fracgpu.sim.lab.allocations import allocation_directory
from fracgpu.sim.lab.climbing import DRIVER_API_CLIMB, held_climbs
from fracgpu.sim.lab.evidence import Evidence, mib
from fracgpu.sim.lab.node import NodeUnderTest
from fracgpu.sim.lab.options import MIB
from fracgpu.sim.lab.stage import SHARING_PODS, STEP_MIB, Stage

TITLE = "allocations are refused at the slice, on a card that is mostly free"

_OUT_OF_MEMORY = 2  # CUDA_ERROR_OUT_OF_MEMORY and cudaErrorMemoryAllocation
_STEP_BYTES = STEP_MIB * MIB

# Speaks like fracgpu-climb.
_RUNTIME_PROGRAM = """\
import json, signal, sys
from cuda.bindings import runtime as cuda
step, allocated, pointers = int(sys.argv[1]) << 20, 0, []
signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
while True:
    error, pointer = cuda.cudaMalloc(step)
    if error != cuda.cudaError_t.cudaSuccess:
        break
    allocated += step
    pointers.append(pointer)
refused = {"event": "refused", "code": int(error), "name": error.name, "allocated_bytes": allocated}
print(json.dumps(refused), flush=True)
signal.sigwait({signal.SIGTERM})
"""

# Which interface: the call that is refused, and the program that climbs.
_CLIMBS = {
    "driver API": ("cuMemAlloc", DRIVER_API_CLIMB),
    "runtime API": ("cudaMalloc", ("python3", "-c", _RUNTIME_PROGRAM, str(STEP_MIB))),
}


def run(stage: Stage, evidence: Evidence) -> None:
    """Climb in both pods at once, through each interface; compare what they got with the slices and the card."""
    for interface, (call, command) in _CLIMBS.items():
        with held_climbs(stage, command) as refusals:
            usage = _card(stage, stage.node) if stage.node else None
        for name, refused in refusals.items():
            _check_refusal(stage, evidence, f"{name}, {interface}", call, refused)
        evidence.data[interface] = refusals
        if usage:
            held = sum(refused["allocated_bytes"] for refused in refusals.values())
            _check_card(evidence, interface, held, usage)
            evidence.data[interface] = refusals | {"card_used_bytes": usage.used_bytes}
    if stage.node:
        for name in SHARING_PODS:
            _check_counted(stage, stage.node, evidence, name)


def _card(stage: Stage, node: NodeUnderTest) -> FakeGpuUsage:
    return next(usage for usage in read_usage(node.machine_file) if usage.uuid == stage.gpu_uuid)


def _check_refusal(stage: Stage, evidence: Evidence, who: str, call: str, refused: dict[str, Any]) -> None:
    limit, allocated = stage.sizes.slice_bytes, refused["allocated_bytes"]
    evidence.check(
        f"{who}: refused at the slice of {mib(limit)}",
        refused["code"] == _OUT_OF_MEMORY and _fills(allocated, limit),
        f"{call} refused after {mib(allocated)}: {refused['name']} ({refused['code']})",
    )


def _fills(count: int, limit: int) -> bool:
    """Tell whether a further step would not have fitted in the slice (contexts are not counted yet)."""
    return limit - _STEP_BYTES < count <= limit


def _check_card(evidence: Evidence, interface: str, held: int, usage: FakeGpuUsage) -> None:
    """Look at the hardware from outside: what both programs say they hold is held, and it could have given more."""
    free = usage.memory_bytes - usage.used_bytes
    evidence.check(
        f"{interface}: the card had room for more, so it was not the card that refused",
        usage.used_bytes >= held and free >= _STEP_BYTES,
        f"{mib(usage.used_bytes)} of the card in use with both contexts, {mib(free)} free",
    )


def _check_counted(stage: Stage, node: NodeUnderTest, evidence: Evidence, name: str) -> None:
    """Read from the host what the interceptor counted for the pod's allocation."""
    state = read_state_file(allocation_directory(node.run_dir, stage.claim(name)) / "state")
    evidence.check(
        f"{name}: the refusals are on record",
        state.refusals >= len(_CLIMBS) and _fills(state.peak_bytes, stage.sizes.slice_bytes) and not state.used_bytes,
        f"state file: {state.refusals} refusals, peak {mib(state.peak_bytes)}, now {mib(state.used_bytes)}",
    )
    evidence.data[f"{name} state file"] = asdict(state)

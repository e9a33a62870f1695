"""Exercise 2: inside a pod every interface agrees on the slice; the card is nowhere to be seen."""

from __future__ import annotations

import json
from typing import Any

from fracgpu.sim.lab.evidence import Evidence, mib
from fracgpu.sim.lab.stage import SHARING_PODS, Stage

TITLE = "inside a pod, NVML and CUDA show the slice"

# What a monitoring program in the pod would do, with NVIDIA's own Python binding.
PYNVML_PROGRAM = """\
import json, pynvml as n
n.nvmlInit()
gpu = n.nvmlDeviceGetHandleByIndex(0)
v1, v2 = n.nvmlDeviceGetMemoryInfo(gpu), n.nvmlDeviceGetMemoryInfo(gpu, version=n.nvmlMemory_v2)
print(json.dumps({"gpus": n.nvmlDeviceGetCount(), "v1": v1.total, "v2": v2.total}))
"""


def run(stage: Stage, evidence: Evidence) -> None:
    """Ask in each pod, through a C program and through Python, how large the GPU is."""
    wanted = stage.sizes.slice_bytes
    for name in SHARING_PODS:
        view = json.loads(stage.output_of(name, ["fracgpu-view"]))
        python = json.loads(stage.output_of(name, ["python3", "-c", PYNVML_PROGRAM]))
        totals = _totals(view) | {"pynvml v1": python["v1"], "pynvml v2": python["v2"]}
        evidence.check(
            f"{name}: every interface shows {mib(wanted)}",
            set(totals.values()) == {wanted},
            ", ".join(f"{interface} {_shown(total)}" for interface, total in totals.items()),
        )
        gpus = sorted({len(view[library].get("devices", [])) for library in ("cuda", "nvml")} | {python["gpus"]})
        evidence.check(
            f"{name}: one GPU is visible",
            gpus == [1],
            f"{'/'.join(map(str, gpus))} GPU; the card itself has {stage.sizes.card_mib} MiB",
        )
        evidence.data[name] = {"view": view, "pynvml": python}


def _totals(view: dict[str, Any]) -> dict[str, int | None]:
    """Collect the totals that fracgpu-view reports of the first GPU; None where an interface gave no answer."""
    cuda: dict[str, Any] = next(iter(view["cuda"].get("devices", [])), {})
    nvml: dict[str, Any] = next(iter(view["nvml"].get("devices", [])), {})
    return {
        "cuMemGetInfo": cuda.get("total_bytes"),
        "cuDeviceTotalMem": cuda.get("device_total_bytes"),
        "NVML v1": (nvml.get("v1") or {}).get("total_bytes"),
        "NVML v2": (nvml.get("v2") or {}).get("total_bytes"),
    }


def _shown(total: int | None) -> str:
    return "no answer" if total is None else mib(total)

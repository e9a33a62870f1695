"""The two pods that are compared: the same program in the same image, once with a claim, once with the driver by hand.

Without a claim a pod reaches the model driver in the way that people without any GPU plugin do: privileged, for the
device nodes, with the driver's directory of the node as a volume.
"""

import json
from dataclasses import dataclass
from typing import Any, Final

IMAGE: Final = "fracgpu.test/workload:e2e"
TEMPLATE: Final = "slice"
SLICE: Final = {"memory": "8Gi", "cores": "30"}
_DRIVER: Final = "/model-driver"
# Two instants of CLOCK_REALTIME: the program's first statement, and the return of its first CUDA call.
_PROGRAM: Final = """\
import time
begun = time.time_ns()
import ctypes
cuda = ctypes.CDLL("libcuda.so.1")
status = cuda.cuInit(0)
print(begun, time.time_ns(), status)
"""


@dataclass(frozen=True, slots=True)
class Spoken:
    """What the program of a pod has printed, in seconds since the epoch: its beginning and the end of its CUDA call."""

    program_began: float
    first_call_over: float


def template() -> dict[str, Any]:
    """Return the claim template, as users write it."""
    request = {"name": "gpu", "exactly": {"deviceClassName": "gpu.fracgpu.dev", "capacity": {"requests": SLICE}}}
    return {
        "apiVersion": "resource.k8s.io/v1",
        "kind": "ResourceClaimTemplate",
        "metadata": {"name": TEMPLATE},
        "spec": {"spec": {"devices": {"requests": [request]}}},
    }


def with_claim(name: str) -> dict[str, Any]:
    """Return the pod that takes its GPU by a claim made from the template."""
    pod = _pod(name)
    pod["spec"]["resourceClaims"] = [{"name": "gpu", "resourceClaimTemplateName": TEMPLATE}]
    pod["spec"]["containers"][0]["resources"] = {"claims": [{"name": "gpu"}]}
    return pod


def without_claim(name: str, driver_directory: str) -> dict[str, Any]:
    """Return the pod that takes the whole node's driver by itself."""
    pod = _pod(name)
    container = pod["spec"]["containers"][0]
    container["securityContext"] = {"privileged": True}
    container["env"] = [{"name": "LD_LIBRARY_PATH", "value": _DRIVER}]
    container["volumeMounts"] = [{"name": "driver", "mountPath": _DRIVER, "readOnly": True}]
    pod["spec"]["volumes"] = [{"name": "driver", "hostPath": {"path": driver_directory, "type": "Directory"}}]
    return pod


def spoken(log: str) -> Spoken:
    """Read what the program printed; ends the benchmark when its CUDA call failed."""
    words = log.split()
    if len(words) != 3 or words[2] != "0":
        raise SystemExit(f"the program's first CUDA call failed: {json.dumps(log)}")
    return Spoken(int(words[0]) / 1e9, int(words[1]) / 1e9)


def _pod(name: str) -> dict[str, Any]:
    container = {"name": "main", "image": IMAGE, "command": ["python3", "-c", _PROGRAM]}
    spec = {"restartPolicy": "Never", "terminationGracePeriodSeconds": 1, "containers": [container]}
    return {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name}, "spec": spec}

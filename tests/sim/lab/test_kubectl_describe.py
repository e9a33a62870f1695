"""The description is laid out as kubectl's."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest

from fracgpu.sim.lab.kubectl_describe import describe

CLAIM: dict[str, Any] = {
    "apiVersion": "resource.k8s.io/v1",
    "kind": "ResourceClaim",
    "metadata": {
        "name": "one",
        "namespace": "default",
        "uid": "u-1",
        "labels": {"b": "2", "a": "1"},
        "managedFields": [{"manager": "m"}],
        "finalizers": ["example.com/f"],
    },
    "spec": {"devices": {"requests": [{"name": "gpu", "exactly": {"count": 1, "adminAccess": True}}]}},
    "status": {"devices": [{"driver": "d", "shareID": "s", "data": {"gpuUUID": "GPU-1", "a.b": 5}}]},
}
EXPECTED = """\
Name:         one
Namespace:    default
Labels:       a=1
              b=2
Annotations:  <none>
API Version:  resource.k8s.io/v1
Kind:         ResourceClaim
Metadata:
  Finalizers:
    example.com/f
  UID:  u-1
Spec:
  Devices:
    Requests:
      Exactly:
        Admin Access:  true
        Count:         1
      Name:            gpu
Status:
  Devices:
    Data:
      a.b:       5
      Gpu UUID:  GPU-1
    Driver:      d
    Share ID:    s
"""
EVENT = {
    "involvedObject": {"uid": "u-1"},
    "type": "Warning",
    "reason": "NotEnforced",
    "message": "process 5 uses the GPU without the interceptor",
    "source": {"component": "fracgpu-kubeletplugin"},
    "lastTimestamp": "2026-01-01T00:00:00Z",
    "count": 3,
}


def test_the_layout() -> None:
    assert describe(CLAIM) == EXPECTED + "Events:          <none>\n"


@pytest.mark.parametrize(("seconds", "age"), [(5, "5s (x3)"), (119, "119s (x3)"), (600, "10m (x3)")])
def test_its_events_follow(seconds: int, age: str) -> None:
    now = datetime.fromtimestamp(1767225600 + seconds, UTC)
    other = EVENT | {"involvedObject": {"uid": "u-2"}}
    lines = describe(CLAIM, [other, EVENT], now=now).removeprefix(EXPECTED).splitlines()
    assert lines == [
        "Events:",
        f"  Type     Reason       {'Age'.ljust(len(age))}  From                   Message",
        f"  ----     ------       {'---'.ljust(len(age))}  ----                   -------",
        f"  Warning  NotEnforced  {age}  fracgpu-kubeletplugin  process 5 uses the GPU without the interceptor",
    ]

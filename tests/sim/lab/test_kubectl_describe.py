"""The description is laid out as kubectl's."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from fracgpu.sim.lab.kubectl_age import human_duration
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
EVENT: dict[str, Any] = {
    "involvedObject": {"uid": "u-1"},
    "type": "Warning",
    "reason": "NotEnforced",
    "message": "process 5 uses the GPU without the interceptor\n",
    "source": {"component": "fracgpu-kubeletplugin"},
    "firstTimestamp": "2026-01-01T00:00:00Z",
    "lastTimestamp": "2026-01-01T00:01:00Z",
    "count": 3,
}
NOW = datetime(2026, 1, 1, 0, 1, 5, tzinfo=UTC)


def test_the_layout() -> None:
    assert describe(CLAIM) == EXPECTED + "Events:          <none>\n"


def test_what_kubectl_apply_keeps_is_not_shown() -> None:
    meta = CLAIM["metadata"] | {"annotations": {"kubectl.kubernetes.io/last-applied-configuration": "{}"}}
    assert describe(CLAIM | {"metadata": meta}) == describe(CLAIM)
    meta["annotations"]["a"] = "b"
    assert "Annotations:  a: b\n" in describe(CLAIM | {"metadata": meta})


@pytest.mark.parametrize(
    ("event", "age"),
    [
        (EVENT, "5s (x3 over 65s)"),
        (EVENT | {"count": 1}, "65s"),
        (EVENT | {"eventTime": "2026-01-01T00:00:59.500000Z", "count": 1}, "5s"),
        (EVENT | {"series": {"count": 2, "lastObservedTime": "2026-01-01T00:01:04.000000Z"}}, "1s (x2 over 65s)"),
        (EVENT | {"firstTimestamp": None, "count": 1}, "<unknown>"),
    ],
)
def test_its_events_follow(event: dict[str, Any], age: str) -> None:
    other = EVENT | {"involvedObject": {"uid": "u-2"}}
    lines = describe(CLAIM, [other, event], now=NOW).removeprefix(EXPECTED).splitlines()
    width = max(len(age), 4)
    assert lines == [
        "Events:",
        f"  Type     Reason       {'Age'.ljust(width)}  From                   Message",
        f"  ----     ------       {'----'.ljust(width)}  ----                   -------",
        f"  Warning  NotEnforced  {age.ljust(width)}  fracgpu-kubeletplugin  {EVENT['message'].strip()}",
    ]


# Either side of each step; what the real kubectl makes of such ages is compared by `make e2e`.
@pytest.mark.parametrize(
    ("age", "text"),
    [
        (timedelta(seconds=-3), "<invalid>"),
        (timedelta(seconds=-1.5), "0s"),
        (timedelta(0), "0s"),
        (timedelta(seconds=119.9), "119s"),
        (timedelta(minutes=2), "2m"),
        (timedelta(minutes=9, seconds=59), "9m59s"),
        (timedelta(minutes=10, seconds=1), "10m"),
        (timedelta(minutes=179, seconds=59), "179m"),
        (timedelta(hours=3), "3h"),
        (timedelta(hours=7, minutes=59), "7h59m"),
        (timedelta(hours=8, minutes=1), "8h"),
        (timedelta(hours=47), "47h"),
        (timedelta(days=2), "2d"),
        (timedelta(days=7, hours=23), "7d23h"),
        (timedelta(days=8, hours=1), "8d"),
        (timedelta(days=729), "729d"),
        (timedelta(days=730), "2y"),
        (timedelta(days=731), "2y1d"),
        (timedelta(days=365 * 9 + 1), "9y"),
    ],
)
def test_ages(age: timedelta, text: str) -> None:
    assert human_duration(age) == text

"""From slices and claims to the numbers of the fit engine."""

from __future__ import annotations

from typing import Any

import pytest

from fracgpu.sim.control.inventory import gpus_of, holdings_of

GIB = 1024**3


def _slice(*devices: Any, generation: int = 1, count: int = 1, driver: str = "gpu.fracgpu.dev") -> dict[str, Any]:
    pool = {"name": "n1", "generation": generation, "resourceSliceCount": count}
    return {"spec": {"driver": driver, "nodeName": "n1", "pool": pool, "devices": list(devices)}}


def _claim(**result: Any) -> dict[str, Any]:
    entry = {"request": "gpu", "driver": "gpu.fracgpu.dev", "pool": "n1", "device": "gpu-a"} | result
    return {"status": {"allocation": {"devices": {"results": [entry]}}}}


def test_view_has_what_the_plugin_published(make_gpu: Any) -> None:
    (view,) = gpus_of([_slice(make_gpu("gpu-a", 80, physical=40))])
    assert (view.node, view.key) == ("n1", ("n1", "gpu-a"))
    assert (view.memory_bytes, view.physical_memory_bytes, view.cores, view.slots) == (80 * GIB, 40 * GIB, 100, 10)
    assert (view.attributes["oversubscribed"], view.attributes["numaNode"], view.healthy) == (True, 0, True)


def test_only_the_newest_generation_counts(make_gpu: Any) -> None:
    slices = [_slice(make_gpu("old")), _slice(make_gpu("new"), generation=2)]
    assert [gpu.device for gpu in gpus_of(slices)] == ["new"]


def test_incomplete_pool_is_ignored(make_gpu: Any) -> None:
    one, two = _slice(make_gpu("gpu-a"), count=2), _slice(make_gpu("gpu-b"), count=2)
    assert gpus_of([one]) == []
    assert [gpu.device for gpu in gpus_of([one, two])] == ["gpu-a", "gpu-b"]


def test_other_drivers_and_allocators_are_not_ours(make_gpu: Any) -> None:
    assert gpus_of([_slice(make_gpu("gpu-a"), driver="nic.example.com")]) == []
    assert gpus_of([_slice(make_gpu("gpu-a", allocator="scheduler"))]) == []


@pytest.mark.parametrize(
    ("result", "memory"),
    [
        ({"consumedCapacity": {"memory": "3Gi", "cores": "5", "slots": "1"}}, [3 * GIB]),
        ({}, [40 * GIB]),
        ({"adminAccess": True}, []),
        ({"driver": "other.example.com"}, []),
        ({"device": "gpu-gone"}, []),
    ],
    ids=["consumed", "unknown is the whole GPU", "admin", "other driver", "device gone"],
)
def test_holdings(make_gpu: Any, result: dict[str, Any], memory: list[int]) -> None:
    gpus = gpus_of([_slice(make_gpu("gpu-a"))])
    assert [holding.memory_bytes for holding in holdings_of([_claim(**result)], gpus)] == memory


def test_broken_grant_counts_as_the_whole_gpu(make_gpu: Any) -> None:
    claim = _claim()
    parameters = {"apiVersion": "gpu.fracgpu.dev/v1alpha1", "kind": "FractionGrant", "results": "x"}
    config = [{"source": "FromClass", "opaque": {"driver": "gpu.fracgpu.dev", "parameters": parameters}}]
    claim["status"]["allocation"]["devices"]["config"] = config
    (holding,) = holdings_of([claim], gpus_of([_slice(make_gpu("gpu-a"))]))
    assert holding.memory_bytes == 40 * GIB

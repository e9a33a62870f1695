"""Builders of claims, classes, slices, pods and nodes as the API server stores them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from fracgpu.driver.names import API_VERSION, CLASS_FRACTION, CONFIG_KIND, DRIVER_NAME, GRANT_KIND

Json = dict[str, Any]
CLASS_SELECTOR = (
    f"device.driver == '{DRIVER_NAME}' && device.attributes['{DRIVER_NAME}'].?allocator.orValue('') == 'scheduler'"
)


@pytest.fixture
def opaque() -> Callable[..., Json]:
    """Build a configuration entry of our driver: `opaque({"memory": "8Gi"}, requests=["gpu"])`."""

    def build(fields: Json, *, driver: str = DRIVER_NAME, kind: str = CONFIG_KIND, **entry: Any) -> Json:
        parameters = {"apiVersion": API_VERSION, "kind": kind, **fields}
        return {"opaque": {"driver": driver, "parameters": parameters}, **entry}

    return build


@pytest.fixture
def device_class() -> Callable[..., Json]:
    """Build a DeviceClass of ours, with entries of configuration."""

    def build(*config: Json, name: str = CLASS_FRACTION, expression: str = CLASS_SELECTOR) -> Json:
        spec = {"selectors": [{"cel": {"expression": expression}}], "config": list(config)}
        return {"metadata": {"name": name}, "spec": spec}

    return build


@pytest.fixture
def find_class(device_class: Callable[..., Json]) -> Callable[..., Callable[[str], Json | None]]:
    """Build the look-up of some classes; without any, of the shipped one."""

    def build(*classes: Json) -> Callable[[str], Json | None]:
        known = {item["metadata"]["name"]: item for item in classes or (device_class(),)}
        return known.get

    return build


@pytest.fixture
def claim() -> Callable[..., Json]:
    """Build a claim of requests; one that names no class is given ours. `config` and `constraints` go beside them."""

    def build(*requests: Json, name: str = "c", **devices: Any) -> Json:
        listed = [dict(request) for request in requests or ({"name": "gpu", "exactly": {}},)]
        for request in listed:
            for part in [request.get("exactly"), *request.get("firstAvailable", ())]:
                if part is not None:
                    part.setdefault("deviceClassName", CLASS_FRACTION)
        metadata = {"name": name, "namespace": "team", "uid": f"uid-{name}"}
        return {"metadata": metadata, "spec": {"devices": {"requests": listed, **devices}}}

    return build


@pytest.fixture
def exactly() -> Callable[..., Json]:
    """Build a request: `exactly("gpu", memory="8Gi", count=2)`."""

    def build(name: str = "gpu", *, memory: Any = None, cores: Any = None, **fields: Any) -> Json:
        requests = {key: value for key, value in (("memory", memory), ("cores", cores)) if value is not None}
        return {"name": name, "exactly": fields | ({"capacity": {"requests": requests}} if requests else {})}

    return build


@pytest.fixture
def device() -> Callable[..., Json]:
    """Build a device of a slice; memory in GiB."""

    def build(name: str, memory: int = 40, *, physical: int | None = None, **changes: Any) -> Json:
        physical = physical or memory
        return {
            "name": name,
            "allowMultipleAllocations": True,
            "attributes": {
                "uuid": {"string": f"GPU-{name}"},
                "allocator": {"string": "controller"},
                "physicalMemoryMiB": {"int": physical * 1024},
                "numaNode": {"int": 0},
                "oversubscribed": {"bool": memory > physical},
                "driverVersion": {"version": "580.65.6"},
                "resource.kubernetes.io/pcieRoot": {"string": "pci0000:00"},
            },
            "capacity": {
                "memory": {"value": f"{memory}Gi"},
                "cores": {"value": "100"},
                "slots": {"value": "10"},
            },
            **changes,
        }

    return build


@pytest.fixture
def slice_of() -> Callable[..., Json]:
    """Build a ResourceSlice of devices; `node` is its pool too."""

    def build(
        *devices: Any, node: str = "n1", generation: int = 1, count: int = 1, driver: str = DRIVER_NAME, **spec: Any
    ) -> Json:
        pool = {"name": node, "generation": generation, "resourceSliceCount": count}
        return {"spec": {"driver": driver, "nodeName": node, "pool": pool, "devices": list(devices), **spec}}

    return build


@pytest.fixture
def allocated(opaque: Callable[..., Json]) -> Callable[..., Json]:
    """Build a claim with an allocation of these results; `grant` are the amounts per ordinal (bytes, cores, slots)."""

    def build(*results: Any, grant: dict[int, tuple[int, int, int]] | None = None, source: str = "FromClass") -> Json:
        entries = [
            {"request": "gpu", "driver": DRIVER_NAME, "pool": "n1", "device": "gpu-a"} | result
            if isinstance(result, dict)
            else result
            for result in results
        ]
        config: list[Json] = []
        if grant is not None:
            granted = [
                {key: entries[ordinal][key] for key in ("request", "pool", "device")}
                | {"ordinal": ordinal, "memoryBytes": memory, "cores": cores, "slots": slots}
                for ordinal, (memory, cores, slots) in grant.items()
            ]
            config.append(opaque({"results": granted}, kind=GRANT_KIND, source=source))
        return {"status": {"allocation": {"devices": {"results": entries, "config": config}}}}

    return build


@pytest.fixture
def node() -> Callable[..., Json]:
    """Build a Node that is ready and has room: 4 CPUs, 8 GiB, 10 pods."""

    def build(
        name: str = "n1",
        *,
        ready: str | None = "True",
        labels: Json | None = None,
        allocatable: Json | None = None,
        deleting: bool = False,
        **spec: Any,
    ) -> Json:
        conditions = [{"type": "Ready", "status": ready}] if ready else []
        metadata: Json = {"name": name, "labels": labels or {}}
        if deleting:
            metadata["deletionTimestamp"] = "2026-01-01T00:00:00Z"
        room = {"cpu": "4", "memory": "8Gi", "pods": "10"} if allocatable is None else allocatable
        return {"metadata": metadata, "spec": spec, "status": {"conditions": conditions, "allocatable": room}}

    return build


@pytest.fixture
def container() -> Callable[..., Json]:
    """Build a container that requests resources: `container(cpu="1", memory="1Gi")`."""

    def build(name: str = "c", *, limits: Json | None = None, always: bool = False, **requests: str) -> Json:
        resources: Json = {"requests": requests} | ({"limits": limits} if limits else {})
        return {"name": name, "resources": resources} | ({"restartPolicy": "Always"} if always else {})

    return build

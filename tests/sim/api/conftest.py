"""A running emulator and clients for it: the official one, and raw HTTP that sends exactly what a test says."""

from __future__ import annotations

import http.client
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

import pytest
from kubernetes import client

from fracgpu.sim.api.server import ApiServer

Json = dict[str, Any]


@dataclass
class Answer:
    """Status code, decoded body and raw bytes of one answer."""

    code: int
    raw: bytes
    body: Json = field(init=False)

    def __post_init__(self) -> None:
        self.body = json.loads(self.raw) if self.raw.startswith(b"{") else {}

    @property
    def causes(self) -> list[str]:
        return [f"{item['field']}: {item['message']}" for item in self.body["details"]["causes"]]


class Raw:
    """HTTP without a Kubernetes library."""

    def __init__(self, url: str) -> None:
        parts = urlsplit(url)
        assert parts.hostname
        self._address = (parts.hostname, parts.port)

    def __call__(self, method: str, path: str, body: Json | list[Any] | bytes | None = None, **headers: str) -> Answer:
        connection = http.client.HTTPConnection(*self._address, timeout=30)
        data = body if body is None or isinstance(body, bytes) else json.dumps(body).encode()
        sent = {"Content-Type": "application/json"} if data is not None else {}
        sent |= {name.replace("_", "-"): value for name, value in headers.items()}
        try:
            connection.request(method, path, data, sent)
            response = connection.getresponse()
            return Answer(response.status, response.read())
        finally:
            connection.close()


@pytest.fixture
def server() -> Iterator[ApiServer]:
    with ApiServer() as running:
        yield running


@pytest.fixture
def raw(server: ApiServer) -> Raw:
    return Raw(server.url)


@pytest.fixture
def gate_off() -> Iterator[Raw]:
    with ApiServer(consumable_capacity=False) as running:
        yield Raw(running.url)


@pytest.fixture
def api(server: ApiServer) -> client.ApiClient:
    configuration = client.Configuration()
    configuration.host = server.url
    return client.ApiClient(configuration)


@pytest.fixture
def make_claim() -> Callable[..., Json]:
    """Build a claim with one request and, if given, parameters."""

    def build(name: str = "c", *, parameters: Json | None = None, **exactly: Any) -> Json:
        part = {"deviceClassName": "gpu.fracgpu.dev", **exactly}
        devices: Json = {"requests": [{"name": "gpu", "exactly": part}]}
        if parameters is not None:
            devices["config"] = [{"opaque": {"driver": "gpu.fracgpu.dev", "parameters": parameters}}]
        return {"metadata": {"name": name}, "spec": {"devices": devices}}

    return build


@pytest.fixture
def make_allocation() -> Callable[..., Json]:
    """Build status.allocation for one device."""

    def build(**changes: Any) -> Json:
        result = {"request": "gpu", "driver": "gpu.fracgpu.dev", "pool": "n1", "device": "gpu-1"} | changes
        term = {"matchFields": [{"key": "metadata.name", "operator": "In", "values": ["n1"]}]}
        return {
            "allocationTimestamp": "2026-01-01T00:00:00Z",
            "devices": {"results": [result]},
            "nodeSelector": {"nodeSelectorTerms": [term]},
        }

    return build

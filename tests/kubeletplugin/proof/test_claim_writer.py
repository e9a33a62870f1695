"""Writing to a claim through the API emulator: with the shipped rights, whatever the creator's JSON looked like.

Each row of the matrix is one way in which opaque parameters may be stored; the emulator compares their bytes as a real
API server does (tests/sim/api/test_raw_bytes.py has what plain JSON clients may do there).
"""

import http.client
import json
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from fracgpu.driver.names import DRIVER_NAME, ClaimUid
from fracgpu.kubeletplugin.api.kubernetes_cluster import KubernetesCluster
from fracgpu.kubeletplugin.prepare.checkpoint import AllocationRecord
from fracgpu.kubeletplugin.prepare.claim import ClaimRef
from fracgpu.kubeletplugin.proof.claim_writer import ClaimWriter, Outcome, WriteResult
from fracgpu.kubeletplugin.proof.device_status import make_reports
from fracgpu.kubeletplugin.proof.events import enforcement_events
from fracgpu.kubeletplugin.proof.observation import AllocationObservation, Finding, Truth
from fracgpu.sim import manifests
from fracgpu.sim.api.access import Access
from fracgpu.sim.api.identity import service_account
from fracgpu.sim.api.requests import VERBATIM_JSON
from fracgpu.sim.api.server import ApiServer

CLAIMS = "/apis/resource.k8s.io/v1/namespaces/default/resourceclaims"
SHIPPED = ("kubelet-plugin-rbac.yaml", "kubelet-plugin-policy.yaml")

STORED = {
    "sorted and compact": b'{"a":1,"b":"x"}',
    "unsorted": b'{"b":"x","a":1}',
    "spaces": b'{"a": 1,  "b": "x"}',
    "float": b'{"a":1.0,"b":"x"}',
    "exponent": b'{"a":1e3,"b":"x"}',
    "not ascii": '{"a":1,"b":"é"}'.encode(),
    "angle as sent by kubectl": rb'{"a":1,"b":"\u003c"}',
    "angle": b'{"a":1,"b":"<"}',
}
# A merge patch takes numbers and order over as text; what Go's encoder spells otherwise needs protobuf.
OVER_JSON = set(STORED) - {"spaces", "angle"}


class Cluster(KubernetesCluster):
    """The real adapter, which notes which way was taken."""

    def __init__(self, kubeconfig: Path) -> None:
        super().__init__(kubeconfig)
        self.ways: list[str] = []

    def patch_claim_status(self, namespace: str, name: str, patch: dict[str, Any]) -> dict[str, Any]:
        self.ways.append("json")
        return super().patch_claim_status(namespace, name, patch)

    def replace_claim_status_message(self, claim: Any) -> Any:
        self.ways.append("protobuf")
        return super().replace_claim_status_message(claim)


class Setting:
    """An API server with the shipped rights, and an administrator's requests to it, byte by byte."""

    def __init__(self, server: ApiServer, directory: Path) -> None:
        self.server = server
        self.directory = directory

    def cluster(self, node: str = "n1") -> Cluster:
        user = service_account("fracgpu-system", "fracgpu-kubeletplugin", node=node)
        token = self.directory / "token"
        token.write_text(self.server.access.tokens.issue(user))
        path = self.directory / "kubeconfig"
        self.server.write_kubeconfig(path, token_file=token)
        return Cluster(path)

    def send(self, method: str, path: str, body: bytes | None = None, **headers: str) -> bytes:
        url = urlsplit(self.server.url)
        connection = http.client.HTTPConnection(str(url.hostname), url.port, timeout=30)
        connection.request(method, path, body, {"Content-Type": "application/json", **headers})
        response = connection.getresponse()
        content = response.read()
        connection.close()
        assert response.status in (200, 201), content
        return content

    def claim(self, parameters: bytes, devices: bytes = b"") -> ClaimRef:
        """Make a claim whose spec and allocation carry `parameters` as they are."""
        opaque = b'"opaque":{"driver":"gpu.fracgpu.dev","parameters":%s}' % parameters
        spec = b'"spec":{"devices":{"requests":[{"name":"gpu","exactly":{"deviceClassName":"k"}}],"config":[{%s}]}}'
        created = self.send("POST", CLAIMS, b'{"metadata":{"name":"c1"},' + spec % opaque + b"}")
        results = b'[{"request":"gpu","driver":"gpu.fracgpu.dev","pool":"n1","device":"gpu-11111111"}]'
        if devices:
            results = results[:-1] + b',{"request":"gpu","driver":"net.example.com","pool":"n1","device":"eth0"}]'
        term = b'[{"matchFields":[{"key":"metadata.name","operator":"In","values":["n1"]}]}]'
        status = (
            b'{"metadata":{"name":"c1"},"status":{"devices":[%s],"allocation":{"allocationTimestamp":'
            b'"2026-01-01T00:00:00Z","devices":{"results":%s,"config":[{"source":"FromClaim",%s}]},'
            b'"nodeSelector":{"nodeSelectorTerms":%s}}}}' % (devices, results, opaque, term)
        )
        verbatim = self.verbatim().rstrip()
        # The spec travels as the bytes that it is, or the API server would see it change.
        head = verbatim[:-1].split(b',"status"')[0]
        self.send("PUT", f"{CLAIMS}/c1/status", head + b"," + status.split(b'{"metadata":{"name":"c1"},')[1])
        return ClaimRef("default", "c1", ClaimUid(json.loads(created)["metadata"]["uid"]))

    def verbatim(self) -> bytes:
        return self.send("GET", f"{CLAIMS}/c1", Accept=VERBATIM_JSON)

    def device(self, driver: str = DRIVER_NAME) -> dict[str, Any]:
        claim = json.loads(self.send("GET", f"{CLAIMS}/c1"))
        (found,) = [one for one in claim["status"]["devices"] if one["driver"] == driver]
        return dict(found)


@pytest.fixture
def setting(tmp_path: Path) -> Iterator[Setting]:
    access = Access([dict(one) for name in SHIPPED for one in manifests.load(manifests.shipped(name))])
    with ApiServer(access=access) as server:
        yield Setting(server, tmp_path)


def observed(ref: ClaimRef, enforced: Truth = Truth.TRUE) -> AllocationObservation:
    record = AllocationRecord(
        allocation_id="a",
        index=0,
        request="gpu",
        pool="n1",
        device="gpu-11111111",
        gpu_uuid="GPU-11111111-2222-3333-4444-555555555555",
        share_id=None,
        memory_bytes=1 << 33,
        cores=30,
        slots=1,
        limited=True,
        admin=False,
    )
    good = Finding(Truth.TRUE, "Good", "with <angles> & é")
    return AllocationObservation(
        claim=ref,
        record=record,
        library_digest="d" * 64,
        prepared=good,
        enforced=Finding(enforced, "InterceptorAttached", "m"),
        within_limit=good,
        compatible=good,
        used_bytes=1,
        peak_bytes=2,
        refusals=3,
        processes=1,
        observed_at=datetime(2026, 3, 1, tzinfo=UTC),
        memory_limit_bytes=1 << 33,
    )


def write(cluster: Cluster, ref: ClaimRef, enforced: Truth = Truth.TRUE) -> WriteResult:
    return ClaimWriter(cluster).write(ref, make_reports([observed(ref, enforced)]))


@pytest.mark.parametrize("name", STORED)
def test_however_the_parameters_are_stored_the_status_gets_there(setting: Setting, name: str) -> None:
    ref = setting.claim(STORED[name])
    cluster = setting.cluster()
    writer = ClaimWriter(cluster)
    for enforced in (Truth.TRUE, Truth.FALSE):
        result = writer.write(ref, make_reports([observed(ref, enforced)]))
        assert result.outcome is Outcome.WRITTEN, result.error
        device = setting.device()
        assert {one["type"]: one["status"] for one in device["conditions"]}["Enforced"] == enforced
        assert device["data"]["memoryLimitBytes"] == 1 << 33
        # In spec and in allocation, to the byte.
        assert setting.verbatim().count(STORED[name]) == 2
    assert cluster.ways == (["json"] * 2 if name in OVER_JSON else ["json", "protobuf", "protobuf"])
    if name in OVER_JSON:
        assert setting.server.access.refused == []


def test_nothing_is_written_twice(setting: Setting) -> None:
    ref = setting.claim(STORED["sorted and compact"])
    cluster = setting.cluster()
    assert [write(cluster, ref).outcome for _ in range(2)] == [Outcome.WRITTEN, Outcome.UNCHANGED]
    assert cluster.ways == ["json"]


@pytest.mark.parametrize("name", ["unsorted", "spaces", "exponent"])
def test_data_of_another_driver_keeps_its_bytes(setting: Setting, name: str) -> None:
    other = b'{"driver":"net.example.com","pool":"n1","device":"eth0","data":%s}' % STORED[name]
    ref = setting.claim(STORED["sorted and compact"], other)
    before = setting.verbatim()
    cluster = setting.cluster()
    assert write(cluster, ref).outcome is Outcome.WRITTEN
    # Rights for that driver's entry were never needed: it did not change.
    assert cluster.ways == ["protobuf"]
    assert setting.device("net.example.com")["data"] == json.loads(STORED[name])
    assert setting.verbatim().count(STORED[name]) == before.count(STORED[name])


@pytest.mark.parametrize("node", ["n2", ""], ids=["another node", "no node"])
@pytest.mark.parametrize("name", ["sorted and compact", "spaces"])
def test_a_token_of_another_node_is_forbidden(setting: Setting, node: str, name: str) -> None:
    ref = setting.claim(STORED[name])
    result = write(setting.cluster(node), ref)
    assert result.outcome is Outcome.FORBIDDEN
    assert "resourceclaims/driver" in result.error


def test_a_claim_that_was_written_in_between_is_read_again(setting: Setting) -> None:
    ref = setting.claim(STORED["sorted and compact"])
    cluster = setting.cluster()
    inner = cluster.get_claim
    stale: list[Any] = []

    def read(namespace: str, name: str, **options: Any) -> dict[str, Any]:
        claim = inner(namespace, name, **options)
        if not stale:
            stale.append(claim)
            label = b'{"metadata":{"labels":{"a":"b"}}}'
            setting.send("PATCH", f"{CLAIMS}/c1", label, **{"Content-Type": "application/merge-patch+json"})
        return claim

    cluster.get_claim = read  # type: ignore[method-assign]
    assert write(cluster, ref).outcome is Outcome.WRITTEN
    assert cluster.ways == ["json", "json"]


def test_a_claim_that_is_gone_is_gone(setting: Setting) -> None:
    ref = setting.claim(STORED["sorted and compact"])
    assert write(setting.cluster(), ClaimRef(ref.namespace, "other", ref.uid)).outcome is Outcome.GONE
    assert write(setting.cluster(), ClaimRef(ref.namespace, ref.name, ClaimUid("other"))).outcome is Outcome.GONE


def test_events_are_allowed_and_valid(setting: Setting) -> None:
    ref = setting.claim(STORED["sorted and compact"])
    cluster = setting.cluster()
    claim = cluster.get_claim("default", "c1")
    reports = make_reports([observed(ref, Truth.FALSE)])
    for event in enforcement_events(ref, claim, reports, node_name="n1", now=datetime(2026, 3, 1, tzinfo=UTC)):
        cluster.create_event("default", event)
    (stored,) = json.loads(setting.send("GET", "/api/v1/namespaces/default/events"))["items"]
    assert (stored["involvedObject"]["kind"], stored["type"]) == ("ResourceClaim", "Warning")

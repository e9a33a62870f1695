"""ControllerApi on the emulated API server, which compares opaque parameters byte by byte as the real one does."""

from __future__ import annotations

import copy
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from fracgpu.controller.api import listing
from fracgpu.controller.api.claim_message import NoMessage, allocation_message
from fracgpu.controller.api.kubernetes_api import KubernetesApi
from fracgpu.controller.ports import ControllerApi
from fracgpu.driver.kube.errors import Conflict, Expired, Immutable, NotFound, Unavailable
from fracgpu.driver.kube.transport import KubernetesTransport
from fracgpu.proto.kubernetes_envelope import PROTOBUF
from fracgpu.sim import manifests
from fracgpu.sim.api.access import Access
from fracgpu.sim.api.server import ApiServer
from tests.deploy.parameters import STORED, create, stored_parameters
from tests.deploy.servers import Requests

Json = dict[str, Any]
FINALIZER = "resource.kubernetes.io/delete-protection"
SHARE = "0b9d5a5e-3f6e-4c0c-9a0e-5a8f4f1d2c3b"
GENEROUS_SECONDS = 30.0


@pytest.fixture
def server() -> Iterator[ApiServer]:
    with ApiServer() as running:
        yield running


@pytest.fixture
def admin(server: ApiServer) -> Requests:
    return Requests(server.url)


@pytest.fixture
def transport(server: ApiServer, tmp_path: Path) -> Iterator[KubernetesTransport]:
    one = KubernetesTransport(server.write_kubeconfig(tmp_path / "kubeconfig"), user_agent="test", connections=16)
    yield one
    one.close()


@pytest.fixture
def api(transport: KubernetesTransport) -> KubernetesApi:
    return KubernetesApi(transport, namespace="default", lease_name="fracgpu-controller")


def allocation() -> Json:
    parameters = {"apiVersion": "gpu.fracgpu.dev/v1alpha1", "kind": "FractionConfig", "memory": "8Gi"}
    term = {"matchFields": [{"key": "metadata.name", "operator": "In", "values": ["n1"]}]}
    result = {
        "request": "gpu",
        "driver": "gpu.fracgpu.dev",
        "pool": "n1",
        "device": "gpu-1",
        "shareID": SHARE,
        "consumedCapacity": {"memory": "8Gi", "cores": "30", "slots": "1"},
        "tolerations": [{"key": "k", "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": 7}],
    }
    config = {
        "source": "FromClass",
        "requests": ["gpu"],
        "opaque": {"driver": "gpu.fracgpu.dev", "parameters": parameters},
    }
    return {
        "allocationTimestamp": "2026-08-01T00:00:00Z",
        "devices": {"results": [result], "config": [config]},
        "nodeSelector": {"nodeSelectorTerms": [term]},
    }


def taken(claim: Json) -> Json:
    changed = copy.deepcopy(claim)
    changed["metadata"]["finalizers"] = [FINALIZER]
    changed["metadata"]["annotations"] = {"gpu.fracgpu.dev/taken-by": "pod_1.1"}
    return changed


def with_allocation(claim: Json) -> Json:
    changed = copy.deepcopy(claim)
    changed.setdefault("status", {})["allocation"] = allocation()
    return changed


def test_it_is_what_the_allocator_wants(api: KubernetesApi) -> None:
    port: ControllerApi = api
    assert port is api


@pytest.fixture
def only_protobuf(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the server find a changed immutable field in every JSON write, as it does where it re-encodes them all."""
    json = KubernetesTransport.json

    def refusing(self: KubernetesTransport, method: str, path: str, **how: Any) -> Json:
        if method == "PUT":
            raise Immutable(path, "field is immutable", remedy="none")
        return json(self, method, path, **how)

    monkeypatch.setattr(KubernetesTransport, "json", refusing)


@pytest.mark.parametrize("way", ["as it comes", "only protobuf"])
@pytest.mark.parametrize("spelling", STORED)
def test_a_claim_is_taken_allocated_and_released_however_its_parameters_were_spelt(
    api: KubernetesApi, admin: Requests, spelling: str, way: str, request: pytest.FixtureRequest
) -> None:
    if way == "only protobuf":
        request.getfixturevalue("only_protobuf")
    create(admin, "c", STORED[spelling])
    mine = api.replace_claim(taken(api.get_claim("default", "c")))
    assert mine["metadata"]["finalizers"] == [FINALIZER]
    assert mine["metadata"]["annotations"]["gpu.fracgpu.dev/taken-by"] == "pod_1.1"
    allocated = api.replace_claim_status(with_allocation(mine))
    found = api.get_claim("default", "c")
    assert found["metadata"]["resourceVersion"] == allocated["metadata"]["resourceVersion"]
    for claim in (allocated, found):
        assert claim["status"]["allocation"] == allocation()
    assert stored_parameters(admin, "c")[0] == STORED[spelling]
    released = copy.deepcopy(allocated)
    del released["status"]["allocation"]
    after = api.replace_claim_status(released)
    assert "allocation" not in (after.get("status") or {})
    assert stored_parameters(admin, "c") == [STORED[spelling]]


def test_json_alone_would_not_do(transport: KubernetesTransport, api: KubernetesApi, admin: Requests) -> None:
    create(admin, "c", STORED["spaces"])
    path = "/apis/resource.k8s.io/v1/namespaces/default/resourceclaims/c"
    with pytest.raises(Immutable):
        transport.json("PUT", path, body=taken(api.get_claim("default", "c")))


@pytest.mark.parametrize("way", ["as it comes", "only protobuf"])
def test_a_write_to_what_changed_since_is_a_conflict(
    api: KubernetesApi, admin: Requests, way: str, request: pytest.FixtureRequest
) -> None:
    if way == "only protobuf":
        request.getfixturevalue("only_protobuf")
    create(admin, "c", STORED["spaces"])
    first = api.get_claim("default", "c")
    second = api.replace_claim(taken(first))
    with pytest.raises(Conflict):
        api.replace_claim(taken(first))
    with pytest.raises(Conflict):
        api.replace_claim_status(with_allocation(first))
    api.replace_claim_status(with_allocation(second))


@pytest.mark.parametrize("way", ["as it comes", "only protobuf"])
def test_a_claim_that_was_made_anew_is_another(
    api: KubernetesApi, admin: Requests, way: str, request: pytest.FixtureRequest
) -> None:
    if way == "only protobuf":
        request.getfixturevalue("only_protobuf")
    create(admin, "c", STORED["spaces"])
    first = api.get_claim("default", "c")
    admin.send("DELETE", "/apis/resource.k8s.io/v1/namespaces/default/resourceclaims/c")
    with pytest.raises(NotFound):
        api.replace_claim(taken(first))
    create(admin, "c", STORED["spaces"])
    with pytest.raises(Conflict):
        api.replace_claim_status(with_allocation(first))


def test_an_allocation_that_was_made_otherwise_is_not_touched(api: KubernetesApi, admin: Requests) -> None:
    """Its own parameters are bytes of somebody else's, too."""
    create(admin, "c", STORED["spaces"])
    mine = api.replace_claim_status(with_allocation(api.get_claim("default", "c")))
    again = api.replace_claim(taken(mine))
    other = copy.deepcopy(again)
    other["status"]["allocation"]["devices"]["results"][0]["device"] = "gpu-2"
    try:
        after = api.replace_claim_status(other)
    except Immutable:
        after = api.get_claim("default", "c")
    assert after["status"]["allocation"] == allocation()


def test_the_answer_of_a_write_over_protobuf_is_of_its_version_though_others_write_on(
    api: KubernetesApi, admin: Requests, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> None:
    create(admin, "c", STORED["spaces"])
    claim = api.get_claim("default", "c")
    read = KubernetesApi.get_claim

    def late(self: KubernetesApi, namespace: str, name: str) -> Json:
        monkeypatch.undo()
        api.replace_claim(taken(api.get_claim(namespace, name)))
        return read(self, namespace, name)

    monkeypatch.setattr(KubernetesApi, "get_claim", late)
    request.getfixturevalue("only_protobuf")
    stored = api.replace_claim_status(with_allocation(claim))
    newest = api.get_claim("default", "c")
    assert int(claim["metadata"]["resourceVersion"]) < int(stored["metadata"]["resourceVersion"])
    assert int(stored["metadata"]["resourceVersion"]) < int(newest["metadata"]["resourceVersion"])
    assert stored["status"]["allocation"] == allocation()


def test_what_protobuf_can_not_say_is_refused_as_before(
    api: KubernetesApi, admin: Requests, only_protobuf: None
) -> None:
    del only_protobuf
    create(admin, "c", STORED["spaces"])
    changed = with_allocation(api.get_claim("default", "c"))
    changed["status"]["allocation"]["fieldOfTheFuture"] = 1
    with pytest.raises(Immutable):
        api.replace_claim_status(changed)
    with pytest.raises(NoMessage):
        allocation_message({"devices": {"results": [{"pool": 1}]}})


def test_times_are_kept_to_the_second() -> None:
    stamp = allocation_message({"allocationTimestamp": "2026-08-01T02:03:04Z"}).allocationTimestamp
    assert stamp.seconds == int(datetime(2026, 8, 1, 2, 3, 4, tzinfo=UTC).timestamp())


def test_foreign_parameters_may_have_fractions() -> None:
    entry = {"source": "FromClaim", "opaque": {"driver": "d", "parameters": {"b": 0.5, "a": None}}}
    message = allocation_message({"devices": {"config": [entry]}})
    (config,) = message.devices.config
    assert config.deviceConfiguration.opaque.parameters.raw == b'{"a":null,"b":0.5}'


def test_claims_are_listed_in_pages_each_with_its_kind(
    api: KubernetesApi, admin: Requests, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(listing, "_PAGE", 2)
    for number in range(5):
        create(admin, f"c{number}", STORED["canonical"])
    claims = api.list_claims()
    assert [claim["metadata"]["name"] for claim in claims] == [f"c{number}" for number in range(5)]
    assert {(claim["apiVersion"], claim["kind"]) for claim in claims} == {("resource.k8s.io/v1", "ResourceClaim")}


class Pages:
    """A transport whose continue tokens expire `expiries` times."""

    def __init__(self, expiries: int) -> None:
        self.expiries = expiries
        self.queries: list[dict[str, str]] = []

    def json(self, method: str, path: str, *, query: dict[str, str], **_: Any) -> Json:
        assert (method, path) == ("GET", "/x")
        self.queries.append(query)
        if "continue" in query and self.expiries:
            self.expiries -= 1
            raise Expired("/x", "gone", remedy="again")
        first = {"metadata": {"name": "a", "managedFields": [{}]}}, {"metadata": {"name": "b"}}
        if "limit" not in query:
            return {"kind": "XList", "apiVersion": "v1", "metadata": {"resourceVersion": "9"}, "items": [*first]}
        token = "" if "continue" in query else "t"
        metadata = {"resourceVersion": "7", "continue": token}
        items = [first[1] if "continue" in query else first[0]]
        return {"kind": "XList", "apiVersion": "v1", "metadata": metadata, "items": items}


@pytest.mark.parametrize("expiries", [0, 1, 2, 3])
def test_a_page_that_expired_begins_the_list_anew(expiries: int) -> None:
    pages = Pages(expiries)
    found = listing.list_all(pages, "/x")  # type: ignore[arg-type]
    assert [item["metadata"] for item in found.items] == [{"name": "a"}, {"name": "b"}]
    assert found.resource_version == ("7" if expiries < 3 else "9")
    # The last resort asks for everything at once.
    assert ("limit" in pages.queries[-1]) == (expiries < 3)
    assert all("resourceVersion" not in query for query in pages.queries)


def test_the_holder_of_the_lease(api: KubernetesApi, admin: Requests) -> None:
    assert api.lease_holder() == ""
    path = "/apis/coordination.k8s.io/v1/namespaces/default/leases"
    spec = {"holderIdentity": "pod_1", "leaseDurationSeconds": 15}
    body = {
        "apiVersion": "coordination.k8s.io/v1",
        "kind": "Lease",
        "metadata": {"name": "fracgpu-controller"},
        "spec": spec,
    }
    assert admin.send("POST", path, body).code == 201
    assert api.lease_holder() == "pod_1"


@pytest.mark.parametrize("keeps", [True, False])
def test_whether_capacity_is_kept_is_found_out_by_a_dry_run(keeps: bool, tmp_path: Path) -> None:
    """The policies that are shipped must let the probe pass."""
    names = ("claims-policy.yaml", "parameters-policy.yaml")
    access = Access(obj for name in names for obj in manifests.load(manifests.shipped(name)))
    with ApiServer(consumable_capacity=keeps, access=access) as server:
        transport = KubernetesTransport(server.write_kubeconfig(tmp_path / "k"), user_agent="test")
        api = KubernetesApi(transport, namespace="default", lease_name="l")
        assert api.keeps_capacity() is keeps
        assert api.list_claims() == []
        transport.close()


def test_a_server_that_is_away_is_unavailable(server: ApiServer, api: KubernetesApi) -> None:
    server.stop()
    for call in (api.list_claims, api.lease_holder, api.keeps_capacity):
        with pytest.raises(Unavailable):
            call()


def test_many_threads_write_at_once(api: KubernetesApi, admin: Requests) -> None:
    claims = [create(admin, f"c{number}", STORED["spaces" if number % 2 else "canonical"]) for number in range(32)]
    gate = threading.Barrier(16)

    def write(claim: Json) -> Json:
        gate.wait(GENEROUS_SECONDS)
        return api.replace_claim_status(with_allocation(api.replace_claim(taken(claim))))

    with ThreadPoolExecutor(16) as pool:
        stored = list(pool.map(write, claims))
    assert [one["metadata"]["name"] for one in stored] == [one["metadata"]["name"] for one in claims]
    assert all(one["status"]["allocation"] == allocation() for one in stored)


def test_the_emulator_speaks_protobuf(transport: KubernetesTransport, admin: Requests) -> None:
    create(admin, "c", STORED["spaces"])
    path = "/apis/resource.k8s.io/v1/namespaces/default/resourceclaims/c"
    assert transport.exchange("GET", path, accept=PROTOBUF).startswith(b"k8s\0")

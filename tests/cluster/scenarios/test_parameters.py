"""Opaque parameters as people really write them: who may still write to the claim, and what is stored afterwards.

The first half asks the API server and the emulator the same; the second half is the whole life of a claim on the
cluster, with the policy that makes parameters canonical and without it.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from kubernetes import client, config

from fracgpu.driver.names import DRIVER_NAME, ClaimUid
from fracgpu.kubeletplugin.api.kubernetes_cluster import KubernetesCluster
from fracgpu.kubeletplugin.prepare.claim import ClaimRef
from fracgpu.kubeletplugin.proof.claim_writer import ClaimWriter, Outcome
from fracgpu.kubeletplugin.proof.device_status import make_reports
from fracgpu.sim import manifests as shipped_manifests
from fracgpu.sim.api.server import ApiServer
from fracgpu.sim.lab.credentials import PluginToken, shipped_access
from tests.cluster import fixtures
from tests.cluster.cluster import Cluster
from tests.cluster.eventually import eventually
from tests.cluster.lone_plane import LonePlane
from tests.cluster.machine.layout import CDI_DIR
from tests.cluster.manifests import document, pod
from tests.deploy.parameters import CLAIMS, STORED, WAYS, add_finalizer, allocate_with, create, stored_parameters
from tests.deploy.servers import Requests
from tests.kubeletplugin.proof.reporter_setting import GOOD, observed

Json = dict[str, Any]
NODE = "parameters-node"
POLICY = "parameters-policy.yaml"
BINDING = "mutatingadmissionpolicybinding/fracgpu-canonical-parameters"
# With these not even a merge patch goes through.
_OVER_PROTOBUF = {"spaces", "line breaks", "angle"}
# Unsorted, spaced, and with an escape that no encoder writes.
ODD = rb'{"kind": "\u0046ractionConfig",  "memory": "1Gi", "apiVersion": "gpu.fracgpu.dev/v1alpha1"}'
FOREIGN = '{"text": "é 日本",  "a": 1}'.encode()


class NotedCluster(KubernetesCluster):
    """The plugin's client, which notes the ways that it took."""

    def __init__(self, kubeconfig: Path) -> None:
        super().__init__(kubeconfig)
        self.ways: list[str] = []

    def patch_claim_status(self, namespace: str, name: str, patch: Json) -> Json:
        self.ways.append("json")
        return super().patch_claim_status(namespace, name, patch)

    def replace_claim_status_message(self, claim: Any) -> Any:
        self.ways.append("protobuf")
        return super().replace_claim_status_message(claim)


@dataclasses.dataclass(frozen=True)
class Side:
    """One of the two servers: an administrator's requests, and the plugin's client."""

    admin: Requests
    plugin: NotedCluster


@pytest.fixture(scope="module")
def sides(plane: LonePlane, tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[Side]]:
    access, directory = shipped_access(), tmp_path_factory.mktemp("emulated")
    with ApiServer(access=access) as server:
        PluginToken(access, directory / "token", node=NODE)
        emulated = server.write_kubeconfig(directory / "kubeconfig", token_file=directory / "token")
        real = plane.kubeconfig("parameters", node=NODE)
        pair = [Side(plane.admin, NotedCluster(real)), Side(Requests(server.url), NotedCluster(emulated))]
        yield pair
        for side in pair:
            side.plugin.close()


@pytest.mark.parametrize("spelling", STORED)
def test_both_servers_refuse_the_same_writes(sides: list[Side], spelling: str) -> None:
    answers: list[Json] = []
    for side in sides:
        told: Json = {}
        for way in WAYS:
            name = f"ways-{list(STORED).index(spelling)}-{WAYS.index(way)}"
            answer = add_finalizer(side.admin, create(side.admin, name, STORED[spelling]), way)
            told[way] = (answer.code, [field for field, _ in answer.findings] if answer.code == 422 else [])
        answers.append(told)
    assert answers[0] == answers[1]
    # The official client's way: it spells everything anew, with spaces.
    assert answers[0]["put as json.dumps"] == (422, ["spec"])


@pytest.mark.parametrize("spelling", STORED)
def test_the_plugin_reports_whatever_the_spelling(sides: list[Side], spelling: str) -> None:
    taken: list[list[str]] = []
    for side in sides:
        name, parameters = f"report-{list(STORED).index(spelling)}", STORED[spelling]
        claim = create(side.admin, name, parameters)
        allocate_with(side.admin, claim, parameters, NODE)
        ref = ClaimRef("default", name, ClaimUid(claim["metadata"]["uid"]))
        record = dataclasses.replace(observed().record, pool=NODE, device="gpu-1")
        side.plugin.ways.clear()
        result = ClaimWriter(side.plugin).write(ref, make_reports([observed(enforced=GOOD, claim=ref, record=record)]))
        assert result.outcome is Outcome.WRITTEN, result.error
        assert stored_parameters(side.admin, name) == [parameters] * 2
        (entry,) = side.admin.send("GET", f"{CLAIMS}/{name}").body["status"]["devices"]
        assert (entry["driver"], entry["data"]["memoryLimitBytes"]) == (DRIVER_NAME, 8 << 30)
        taken.append(list(side.plugin.ways))
    assert taken[0] == taken[1]
    assert taken[0] == (["json", "protobuf"] if spelling in _OVER_PROTOBUF else ["json"])


def claim_body(ours: bytes, foreign: bytes) -> bytes:
    """Return a claim named `odd` with parameters for us and for another driver, to the byte."""
    request = b'{"name":"gpu","exactly":{"deviceClassName":"gpu.fracgpu.dev","capacity":{"requests":{"memory":"1Gi"}}}}'
    entry = b'{"opaque":{"driver":"%s","parameters":%s}}'
    entries = b",".join([entry % (b"gpu.fracgpu.dev", ours), entry % (b"other.example.com", foreign)])
    head = b'{"apiVersion":"resource.k8s.io/v1","kind":"ResourceClaim","metadata":{"name":"odd"},"spec":{"devices":{'
    return head + b'"requests":[%s],"config":[%s]}}}' % (request, entries)


def by_kubectl(cluster: Cluster, namespace: str) -> None:
    cluster.apply(claim_body(ODD, FOREIGN).decode(), namespace)


def by_python(cluster: Cluster, namespace: str) -> None:
    api = config.new_client_from_config(str(cluster.plane.admin_kubeconfig))
    body = json.loads(claim_body(ODD, FOREIGN))
    client.ResourceV1Api(api).create_namespaced_resource_claim(namespace, body)


def by_hand(cluster: Cluster, namespace: str) -> None:
    path = f"/apis/resource.k8s.io/v1/namespaces/{namespace}/resourceclaims"
    answer = administrator(cluster).send("POST", path, claim_body(ODD, FOREIGN))
    assert answer.code == 201, answer.raw


def administrator(cluster: Cluster) -> Requests:
    return Requests(cluster.plane.server, tls=cluster.plane.tls)


def canonical(parameters: bytes) -> bytes:
    return json.dumps(json.loads(parameters), sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()


def is_canonicalised(cluster: Cluster) -> bool:
    """Tell whether the policy is in force now: by a claim that is not stored."""
    path = "/apis/resource.k8s.io/v1/namespaces/default/resourceclaims?dryRun=All"
    answer = administrator(cluster).send("POST", path, claim_body(ODD, FOREIGN))
    return "gpu.fracgpu.dev/parameters" in answer.body["metadata"].get("annotations", {})


@pytest.fixture(scope="module")
def spelling_kept(cluster: Cluster) -> Iterator[None]:
    """The cluster without the policy that makes parameters canonical, as all clusters below 1.36 are."""
    cluster.kubectl.output("delete", BINDING)
    try:
        eventually(lambda: not is_canonicalised(cluster), what="end of the policy")
        yield
    finally:
        cluster.kubectl.output("apply", "-f", "-", stdin=shipped_manifests.shipped(POLICY))
        eventually(lambda: is_canonicalised(cluster), what="the policy in force again")


def copied(cluster: Cluster, admin: Requests, name: str, namespace: str) -> list[bytes]:
    """Return what the allocation of a claim has of parameters, without the grant that only our controller writes."""
    stored = stored_parameters(admin, name, namespace)[
        len(cluster.claim(name, namespace)["spec"]["devices"]["config"]) :
    ]
    grants = [one for one in stored if b"FractionGrant" in one]
    assert len(grants) == (cluster.installation.allocator == "controller")
    assert grants == [canonical(one) for one in grants]
    return [one for one in stored if one not in grants]


def is_told_prepared(claim: Json) -> bool:
    """Tell whether status.devices says so. The plugin may have looked, and told, in the middle of Prepare before."""
    devices = claim["status"].get("devices", [])
    return any(one["type"] == "Prepared" and one["status"] == "True" for of in devices for one in of["conditions"])


def live(cluster: Cluster, namespace: str, allocator: str) -> list[bytes]:
    """Lead the claim through its life; return the parameters as they were all the time.

    kube-scheduler copies them to the byte, our controller writes its copy as everything that it writes.
    """
    admin = administrator(cluster)
    (ours, foreign) = stored_parameters(admin, "odd", namespace)
    cluster.apply(document(pod("user", claim="odd")), namespace)
    cluster.wait_pod("user", namespace=namespace)
    eventually(lambda: is_told_prepared(cluster.claim("odd", namespace)), what="the plugin's word that it is prepared")
    spec, copy = [ours, foreign], copied(cluster, admin, "odd", namespace)
    assert stored_parameters(admin, "odd", namespace)[:2] == spec
    assert copy == (spec if allocator == "scheduler" else [canonical(ours), canonical(foreign)])
    cluster.delete_pod("user", namespace)
    eventually(
        lambda: "allocation" not in cluster.claim("odd", namespace).get("status", {}), what="deallocation of the claim"
    )
    assert stored_parameters(admin, "odd", namespace) == [ours, foreign]
    assert list(CDI_DIR.iterdir()) == []
    return [ours, foreign]


def label(cluster: Cluster, namespace: str) -> str:
    """Patch the claim as people do; return what kubectl complains about."""
    return cluster.kubectl.run("label", "resourceclaim", "odd", "--namespace", namespace, "a=b").stderr


@pytest.mark.parametrize("write", [by_kubectl, by_python, by_hand])
@pytest.mark.parametrize("allocator", fixtures.EACH_ALLOCATOR)
def test_parameters_are_canonical_from_the_start(
    cluster: Cluster, namespace: str, write: Callable[[Cluster, str], None], allocator: str
) -> None:
    assert is_canonicalised(cluster)
    write(cluster, namespace)

    assert label(cluster, namespace) == ""
    assert live(cluster, namespace, allocator) == [canonical(ODD), canonical(FOREIGN)]


@pytest.mark.usefixtures("spelling_kept")
@pytest.mark.parametrize(
    ("write", "stored", "refused"),
    [
        (by_kubectl, [canonical(ODD), canonical(FOREIGN)], False),
        (by_python, [json.dumps(json.loads(one)).encode() for one in (ODD, FOREIGN)], True),
        (by_hand, [ODD, FOREIGN], True),
    ],
    ids=["kubectl", "python", "by hand"],
)
@pytest.mark.parametrize("allocator", fixtures.EACH_ALLOCATOR)
def test_without_the_policy_the_bytes_stay_and_the_proof_is_written_all_the_same(
    cluster: Cluster,
    namespace: str,
    write: Callable[[Cluster, str], None],
    stored: list[bytes],
    refused: bool,
    allocator: str,
) -> None:
    write(cluster, namespace)

    assert ("field is immutable" in label(cluster, namespace)) is refused
    assert live(cluster, namespace, allocator) == stored


@pytest.mark.usefixtures("spelling_kept")
@pytest.mark.parametrize("allocator", fixtures.EACH_ALLOCATOR)
def test_class_and_template_are_copied(cluster: Cluster, namespace: str, allocator: str) -> None:
    """Kubernetes's controllers speak protobuf: what an administrator's JSON looked like arrives in the allocation.

    Ours speaks JSON, and writes it canonically.
    """
    admin, classes = administrator(cluster), "/apis/resource.k8s.io/v1/deviceclasses"
    odd = rb'{"kind": "\u0046ractionConfig",  "weight": 2, "apiVersion": "gpu.fracgpu.dev/v1alpha1"}'
    spec = admin.send("GET", f"{classes}/gpu.fracgpu.dev").body["spec"]
    config = b'[{"opaque":{"driver":"gpu.fracgpu.dev","parameters":%s}}]' % odd
    body = json.dumps({"metadata": {"name": "e2e-spelt"}, "spec": {**spec, "config": []}}).encode()
    assert admin.send("POST", classes, body.replace(b'"config": []', b'"config":%s' % config)).code == 201
    try:
        inner = json.loads(claim_body(ODD, FOREIGN))["spec"]
        inner["devices"]["requests"][0]["exactly"]["deviceClassName"] = "e2e-spelt"
        template = {"metadata": {"name": "odd"}, "spec": {"spec": inner}}
        path = f"/apis/resource.k8s.io/v1/namespaces/{namespace}/resourceclaimtemplates"
        assert admin.send("POST", path, template).code == 201
        user = pod("user")
        user["spec"]["resourceClaims"] = [{"name": "gpu", "resourceClaimTemplateName": "odd"}]
        cluster.apply(document(user), namespace)
        cluster.wait_pod("user", namespace=namespace)
        (claim,) = cluster.claims_of(cluster.pod("user", namespace))
        name = claim["metadata"]["name"]
        eventually(lambda: cluster.claim(name, namespace)["status"].get("devices"), what="status.devices of the claim")
        spec = [json.dumps(json.loads(one)).encode() for one in (ODD, FOREIGN)]
        assert stored_parameters(admin, name, namespace)[:2] == spec
        kept = [odd, *spec] if allocator == "scheduler" else [canonical(one) for one in (odd, *spec)]
        assert copied(cluster, admin, name, namespace) == kept
    finally:
        cluster.delete_pod("user", namespace)
        admin.send("DELETE", f"{classes}/e2e-spelt")

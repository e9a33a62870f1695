"""Everything that the controller asks of an API server, in one journey, and the cells of its roles that it needs.

The journey is the same on the emulator and on a real server: with the shipped roles it succeeds, without any one cell
of them something is refused. So the roles are neither too small nor too large.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Any, Final

from fracgpu.controller.api.kubernetes_api import KubernetesApi
from fracgpu.controller.api.listing import list_all
from fracgpu.controller.lead.election import Leadership, Timing
from fracgpu.controller.lead.lease_lock import LeaseRecordLock
from fracgpu.controller.options import DEFAULT_LEASE
from fracgpu.controller.watch.resources import WATCHED
from fracgpu.driver.kube.errors import ClusterError
from fracgpu.driver.kube.transport import KubernetesTransport
from fracgpu.driver.names import API_VERSION, FINALIZER
from fracgpu.sim import manifests
from fracgpu.sim.api.rbac import Permission, RbacRules
from tests.deploy.rights import allocation, make_claim
from tests.deploy.servers import Requests

Json = dict[str, Any]
ROLE_FILE: Final = "controller-rbac.yaml"
NAMESPACE: Final = "fracgpu-system"
ACCOUNT: Final = "fracgpu-controller"
_TENANT: Final = "default"
_WATCH_SECONDS: Final = 30.0


@dataclass(frozen=True)
class ControllerScene:
    """Where one journey takes place: names of its own, so that journeys share a server."""

    name: str = "c"
    lease: str = DEFAULT_LEASE


def make_controller_world(admin: Requests, scene: ControllerScene) -> None:
    """Write what users have written before the controller comes."""
    namespace = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAMESPACE}}
    assert admin.send("POST", "/api/v1/namespaces", namespace).code in (201, 409)
    for obj in manifests.load(manifests.shipped("quota-crd.yaml")):
        if obj["kind"] == "CustomResourceDefinition":
            path = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions"
            assert admin.send("POST", path, dict(obj)).code in (201, 409)
    claims = f"/apis/resource.k8s.io/v1/namespaces/{_TENANT}/resourceclaims"
    assert admin.send("POST", claims, make_claim(scene.name)).code == 201
    quota = {
        "apiVersion": API_VERSION,
        "kind": "FractionQuota",
        "metadata": {"name": scene.name},
        "spec": {"hard": {"memory": "1Gi"}},
    }
    answer = admin.send("POST", f"/apis/{API_VERSION}/namespaces/{_TENANT}/fractionquotas", quota)
    assert answer.code == 201, answer.raw


def controller_journey(transport: KubernetesTransport, scene: ControllerScene) -> set[str]:
    """Ask for everything that a controller ever asks for; return the called methods. Raises ClusterError."""
    _watch(transport)
    _lead(transport, scene)
    api = KubernetesApi(transport, namespace=NAMESPACE, lease_name=scene.lease)
    api.keeps_capacity()
    api.lease_holder()
    assert scene.name in [claim["metadata"]["name"] for claim in api.list_claims()]
    claim = api.get_claim(_TENANT, scene.name)
    claim["metadata"]["finalizers"] = [FINALIZER]
    claim = api.replace_claim(claim)
    claim.setdefault("status", {})["allocation"] = allocation("n1", allocationTimestamp="2026-08-01T00:00:00Z")
    claim = api.replace_claim_status(claim)
    del claim["status"]["allocation"]
    api.replace_claim_status(claim)
    quotas = list_all(transport, f"/apis/{API_VERSION}/fractionquotas").items
    (quota,) = [one for one in quotas if one["metadata"]["name"] == scene.name]
    api.replace_quota_status({**quota, "status": {"used": {"memory": "0"}}})
    name = f"{scene.name}.e"
    api.create_event(
        {
            "metadata": {"name": name, "namespace": _TENANT},
            "involvedObject": {"kind": "ResourceClaim", "namespace": _TENANT, "name": scene.name},
            "reason": "R",
        }
    )
    api.patch_event(_TENANT, name, {"message": "m"})
    return {
        *("keeps_capacity", "lease_holder", "list_claims", "get_claim", "replace_claim", "replace_claim_status"),
        *("replace_quota_status", "create_event", "patch_event"),
    }


def _watch(transport: KubernetesTransport) -> None:
    for watched in WATCHED:
        version = list_all(transport, watched.path).resource_version
        query = {"watch": "1", "resourceVersion": version, "timeoutSeconds": "1"}
        transport.send("GET", watched.path, query=query, read_seconds=_WATCH_SECONDS).close()


class _Loud(LeaseRecordLock):
    """Keeps the error that the election would only log."""

    failure: ClusterError | None = None

    def read(self) -> Any:
        return self._noting(super().read)

    def create(self, record: Any) -> None:
        self._noting(lambda: super(_Loud, self).create(record))

    def update(self, record: Any) -> None:
        self._noting(lambda: super(_Loud, self).update(record))

    def _noting(self, call: Any) -> Any:
        try:
            return call()
        except ClusterError as error:
            self.failure = error
            raise


def _lead(transport: KubernetesTransport, scene: ControllerScene) -> None:
    """Create the Lease, renew it, and give it back."""
    lock = _Loud(transport, namespace=NAMESPACE, name=scene.lease)
    leadership = Leadership(lock, identity="pod", timing=Timing())
    leadership.attempt()
    leadership.attempt()
    leadership.release()
    if lock.failure is not None:
        raise lock.failure


def controller_cells() -> list[Permission]:
    """Return the cells of the shipped roles: one verb on one resource each."""
    return sorted(RbacRules(_shipped()).permissions())


def controller_objects_without(cell: Permission) -> list[Json]:
    """Return the objects of the shipped manifest, the roles without one of their cells."""
    objects = _shipped()
    rules = [rule for obj in objects for rule in obj.get("rules") or ()]
    fitting = [
        rule
        for rule in rules
        if cell.group in rule["apiGroups"] and cell.resource in rule["resources"] and cell.verb in rule["verbs"]
    ]
    (rule,) = fitting
    rule["verbs"].remove(cell.verb)
    # What the rule says of other resources stays.
    rules_of = next(obj["rules"] for obj in objects if rule in (obj.get("rules") or ()))
    others = [one for one in rule["resources"] if one != cell.resource]
    if others:
        rules_of.append({**rule, "resources": others, "verbs": [cell.verb]})
    return objects


def _shipped() -> list[Json]:
    return [copy.deepcopy(dict(obj)) for obj in manifests.load(manifests.shipped(ROLE_FILE))]

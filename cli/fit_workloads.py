"""The pods that manifests would make, with their claims, as the cluster would make them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Final

from fracgpu.controller.convert.ask import foreign_resources
from fracgpu.controller.convert.kinds import pod_path
from fracgpu.controller.objects.facts import dig, items, mapping, name_of, namespace_of, text
from fracgpu.controller.ports import Json
from fracgpu.driver.errors import FracgpuError

ClaimLookup = Callable[[str, str], Json | None]
"""Finds a claim, or a template, by namespace and name; None where there is none."""

_ONE_AT_A_TIME: Final = ("Pod", "PodTemplate", "DaemonSet", "CronJob")


class WorkloadUnclear(FracgpuError):
    """A workload names claims or templates that are nowhere, or has no pod in it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Workload:
    """One object of the manifests that has pods: `template` has `metadata` and `spec` of a pod."""

    kind: str
    namespace: str
    name: str
    template: Json
    replicas: int

    @property
    def title(self) -> str:
        """Name it in messages."""
        return f"{self.kind} {self.namespace}/{self.name}"

    @property
    def asks_a_device_plugin(self) -> bool:
        """Whether a container asks for a device plugin's resources, which are no claims."""
        spec = mapping(self.template, "spec")
        containers = [*items(spec, "containers"), *items(spec, "initContainers")]
        return any(foreign_resources(mapping(container, "resources")) for container in containers)

    @property
    def names_claims(self) -> bool:
        """Whether its pods use claims at all."""
        return bool(items(self.template, "spec", "resourceClaims"))


def workloads_of(objects: Iterable[Json], *, namespace: str, replicas: int | None) -> Iterator[Workload]:
    """Yield what has pods, in order. `namespace` is for objects that name none, `replicas` overrides their own number.

    Of a DaemonSet or CronJob one pod is looked at. Raises WorkloadUnclear.
    """
    for obj in objects:
        path = pod_path(obj)
        if path is None:
            continue
        kind, name = str(obj.get("kind")), name_of(obj) or text(obj, "metadata", "generateName")
        template = dig(obj, *(str(step) for step in path))
        if not isinstance(dig(template, "spec"), dict) or not name:
            raise WorkloadUnclear(f"{kind} {name or '(no name)'}", "has no pod in it", remedy="correct the manifest")
        own = dig(obj, "spec", "parallelism" if kind == "Job" else "replicas")
        stated = own if isinstance(own, int) and kind not in _ONE_AT_A_TIME else 1
        number = replicas if replicas is not None else stated
        yield Workload(
            kind=kind,
            namespace=namespace_of(obj) or namespace,
            name=name,
            template=template,
            replicas=max(0, number),
        )


@dataclass(slots=True)
class PodMaker:
    """Makes pods and the claims that are generated for them, as Kubernetes does, with names and UIDs of our own."""

    find_claim: ClaimLookup
    find_template: ClaimLookup
    _made: Counter[str] = field(default_factory=Counter)

    def make(self, workload: Workload) -> tuple[Json, list[Json], list[Json]]:
        """Return a pod, the claims that were made for it, and those that it shares with others.

        Raises WorkloadUnclear.
        """
        name = self.next_name(workload)
        pod = self._named(workload.template, workload.namespace, name)
        pod |= {"apiVersion": "v1", "kind": "Pod"}
        own: list[Json] = []
        shared: list[Json] = []
        statuses: list[Json] = []
        for entry in items(workload.template, "spec", "resourceClaims"):
            template = text(entry, "resourceClaimTemplateName")
            if not template:
                shared.append(self._shared(workload, text(entry, "resourceClaimName")))
                continue
            claim = self._generated(workload, pod, template, text(entry, "name"))
            own.append(claim)
            statuses.append({"name": text(entry, "name"), "resourceClaimName": name_of(claim)})
        pod["status"] = {"phase": "Pending", "resourceClaimStatuses": statuses}
        return pod, own, shared

    def next_name(self, workload: Workload) -> str:
        """Return a name for one more pod of a workload."""
        self._made[workload.title] += 1
        number = self._made[workload.title]
        return workload.name if workload.kind == "Pod" and number == 1 else f"{workload.name}-{number}"

    def _shared(self, workload: Workload, name: str) -> Json:
        claim = self.find_claim(workload.namespace, name)
        if claim is None:
            what = f"ResourceClaim {workload.namespace}/{name} is in no manifest and not in the cluster"
            raise WorkloadUnclear(workload.title, what, remedy="give its manifest too")
        return claim

    def _generated(self, workload: Workload, pod: Json, template: str, own_name: str) -> Json:
        found = self.find_template(workload.namespace, template)
        if found is None:
            what = f"ResourceClaimTemplate {workload.namespace}/{template} is in no manifest and not in the cluster"
            raise WorkloadUnclear(workload.title, what, remedy="give its manifest too")
        inner = mapping(found, "spec")
        claim = self._named({"metadata": inner.get("metadata")}, workload.namespace, f"{name_of(pod)}-{own_name}")
        claim["metadata"]["ownerReferences"] = [
            {"apiVersion": "v1", "kind": "Pod", "name": name_of(pod), "uid": pod["metadata"]["uid"], "controller": True}
        ]
        return claim | {
            "apiVersion": "resource.k8s.io/v1",
            "kind": "ResourceClaim",
            "spec": mapping(inner, "spec"),
        }

    def _named(self, template: Json, namespace: str, name: str) -> Json:
        meta = {**mapping(template, "metadata"), "namespace": namespace, "name": name}
        # No object of the API has such a UID.
        meta |= {"uid": f"fracgpu-fit/{namespace}/{name}", "resourceVersion": "1"}
        spec = {"spec": mapping(template, "spec")} if "spec" in template else {}
        return {"metadata": meta, **spec}


def as_created(claim: Json, namespace: str) -> Json:
    """Return a claim of a manifest as it will be in the cluster."""
    inside = namespace_of(claim) or namespace
    meta = {**mapping(claim, "metadata"), "namespace": inside, "resourceVersion": "1"}
    return {**claim, "metadata": meta | {"uid": f"fracgpu-fit/{inside}/{name_of(claim)}"}, "status": {}}


def by_name(objects: Sequence[Json], kind: str, namespace: str) -> dict[tuple[str, str], Json]:
    """Return the objects of a kind by namespace (`namespace` where they name none) and name."""
    return {(namespace_of(obj) or namespace, name_of(obj)): obj for obj in objects if obj.get("kind") == kind}

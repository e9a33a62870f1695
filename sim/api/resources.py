"""The resources that the emulator serves, and the switches in which they differ.

One table, so that discovery, routing, storage and rules cannot disagree.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Resource:
    """One resource type. `model` is the Python client's model class that serves as its schema.

    A resource without a model is a custom one: it is served while a CustomResourceDefinition of its name is there, by
    whose schema its objects are checked.
    """

    group: str
    version: str
    plural: str
    kind: str
    namespaced: bool
    model: str
    short_names: tuple[str, ...] = ()
    categories: tuple[str, ...] = ()
    status: bool = True
    counts_generation: bool = False
    unconditional_update: bool = True
    returns_deleted: bool = False
    create_on_update: bool = False

    @property
    def is_custom(self) -> bool:
        """Tell whether the resource is there by a CustomResourceDefinition."""
        return not self.model

    @property
    def api_version(self) -> str:
        """Return `group/version`, or the bare version for the core group."""
        return f"{self.group}/{self.version}" if self.group else self.version

    @property
    def qualified(self) -> str:
        """Return `plural.group`, as error messages name a resource."""
        return f"{self.plural}.{self.group}" if self.group else self.plural

    @property
    def root(self) -> str:
        """Return the URL prefix of the group and version."""
        return f"/apis/{self.group}/{self.version}" if self.group else f"/api/{self.version}"


_DRA = "resource.k8s.io"

NAMESPACES = Resource(
    group="",
    version="v1",
    plural="namespaces",
    kind="Namespace",
    namespaced=False,
    model="V1Namespace",
    short_names=("ns",),
)
NODES = Resource(
    group="", version="v1", plural="nodes", kind="Node", namespaced=False, model="V1Node", short_names=("no",)
)
PODS = Resource(
    group="",
    version="v1",
    plural="pods",
    kind="Pod",
    namespaced=True,
    model="V1Pod",
    short_names=("po",),
    counts_generation=True,
    returns_deleted=True,
)
EVENTS = Resource(
    group="",
    version="v1",
    plural="events",
    kind="Event",
    namespaced=True,
    model="CoreV1Event",
    short_names=("ev",),
    status=False,
)
RESOURCE_CLAIMS = Resource(
    group=_DRA,
    version="v1",
    plural="resourceclaims",
    kind="ResourceClaim",
    namespaced=True,
    model="ResourceV1ResourceClaim",
    returns_deleted=True,
)
RESOURCE_CLAIM_TEMPLATES = Resource(
    group=_DRA,
    version="v1",
    plural="resourceclaimtemplates",
    kind="ResourceClaimTemplate",
    namespaced=True,
    model="V1ResourceClaimTemplate",
    status=False,
    returns_deleted=True,
)
RESOURCE_SLICES = Resource(
    group=_DRA,
    version="v1",
    plural="resourceslices",
    kind="ResourceSlice",
    namespaced=False,
    model="V1ResourceSlice",
    status=False,
    counts_generation=True,
    returns_deleted=True,
)
DEVICE_CLASSES = Resource(
    group=_DRA,
    version="v1",
    plural="deviceclasses",
    kind="DeviceClass",
    namespaced=False,
    model="V1DeviceClass",
    status=False,
    counts_generation=True,
    returns_deleted=True,
)
DEPLOYMENTS = Resource(
    group="apps",
    version="v1",
    plural="deployments",
    kind="Deployment",
    namespaced=True,
    model="V1Deployment",
    short_names=("deploy",),
    counts_generation=True,
)
REPLICA_SETS = Resource(
    group="apps",
    version="v1",
    plural="replicasets",
    kind="ReplicaSet",
    namespaced=True,
    model="V1ReplicaSet",
    short_names=("rs",),
    counts_generation=True,
)
STATEFUL_SETS = Resource(
    group="apps",
    version="v1",
    plural="statefulsets",
    kind="StatefulSet",
    namespaced=True,
    model="V1StatefulSet",
    short_names=("sts",),
    counts_generation=True,
)
JOBS = Resource(
    group="batch",
    version="v1",
    plural="jobs",
    kind="Job",
    namespaced=True,
    model="V1Job",
    counts_generation=True,
)
LEASES = Resource(
    group="coordination.k8s.io",
    version="v1",
    plural="leases",
    kind="Lease",
    namespaced=True,
    model="V1Lease",
    status=False,
    unconditional_update=False,
    create_on_update=True,
)
CUSTOM_RESOURCE_DEFINITIONS = Resource(
    group="apiextensions.k8s.io",
    version="v1",
    plural="customresourcedefinitions",
    kind="CustomResourceDefinition",
    namespaced=False,
    model="V1CustomResourceDefinition",
    short_names=("crd", "crds"),
    categories=("api-extensions",),
    counts_generation=True,
    unconditional_update=False,
    returns_deleted=True,
)
FRACTION_QUOTAS = Resource(
    group="gpu.fracgpu.dev",
    version="v1alpha1",
    plural="fractionquotas",
    kind="FractionQuota",
    namespaced=True,
    model="",
    short_names=("fq",),
    categories=("fracgpu",),
    counts_generation=True,
    unconditional_update=False,
)

ALL_RESOURCES: tuple[Resource, ...] = (
    NAMESPACES,
    NODES,
    PODS,
    EVENTS,
    RESOURCE_CLAIMS,
    RESOURCE_CLAIM_TEMPLATES,
    RESOURCE_SLICES,
    DEVICE_CLASSES,
    DEPLOYMENTS,
    REPLICA_SETS,
    STATEFUL_SETS,
    JOBS,
    LEASES,
    CUSTOM_RESOURCE_DEFINITIONS,
    FRACTION_QUOTAS,
)


def find_kind(api_version: str, kind: str) -> Resource | None:
    """Return the resource of an apiVersion and kind, None when it is not served."""
    for resource in ALL_RESOURCES:
        if resource.kind == kind and resource.api_version == api_version:
            return resource
    return None

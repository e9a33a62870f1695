"""Discovery documents: what clients read to learn which resources are served."""

from __future__ import annotations

from collections.abc import Iterable

from fracgpu.sim.api.objects import JsonObject
from fracgpu.sim.api.resources import PODS, Resource

VERSION: JsonObject = {
    "major": "1",
    "minor": "36",
    "gitVersion": "v1.36.2+fracgpu-lab",
    "gitCommit": "",
    "gitTreeState": "clean",
    "buildDate": "2026-06-16T00:00:00Z",
    "goVersion": "none",
    "compiler": "none",
    "platform": "linux/amd64",
}
_VERBS = ["create", "delete", "deletecollection", "get", "list", "patch", "update", "watch"]


def groups(served: Iterable[Resource]) -> dict[str, str]:
    """Return the named groups with their version."""
    return {resource.group: resource.version for resource in served if resource.group}


def group_document(name: str, version: str) -> JsonObject:
    """Return the APIGroup."""
    entry = {"groupVersion": f"{name}/{version}", "version": version}
    return {"kind": "APIGroup", "apiVersion": "v1", "name": name, "versions": [entry], "preferredVersion": entry}


def group_list(served: Iterable[Resource]) -> JsonObject:
    """Return the APIGroupList of /apis."""
    documents = [group_document(name, version) for name, version in sorted(groups(served).items())]
    return {"kind": "APIGroupList", "apiVersion": "v1", "groups": documents}


def core_versions(address: str) -> JsonObject:
    """Return the APIVersions of /api."""
    return {
        "kind": "APIVersions",
        "versions": ["v1"],
        "serverAddressByClientCIDRs": [{"clientCIDR": "0.0.0.0/0", "serverAddress": address}],
    }


def resource_list(served: Iterable[Resource], group: str, version: str) -> JsonObject:
    """Return the APIResourceList of one group and version."""
    entries: list[JsonObject] = []
    for resource in served:
        if (resource.group, resource.version) == (group, version):
            entries += _entries(resource)
    label = f"{group}/{version}" if group else version
    return {"kind": "APIResourceList", "apiVersion": "v1", "groupVersion": label, "resources": entries}


def _entries(resource: Resource) -> list[JsonObject]:
    common: JsonObject = {"singularName": "", "namespaced": resource.namespaced, "kind": resource.kind}
    main = common | {"name": resource.plural, "singularName": resource.kind.lower(), "verbs": _VERBS}
    if resource.short_names:
        main["shortNames"] = list(resource.short_names)
    if resource.categories:
        main["categories"] = list(resource.categories)
    entries = [main]
    if resource.status:
        entries.append(common | {"name": f"{resource.plural}/status", "verbs": ["get", "patch", "update"]})
    if resource is PODS:
        entries.append(common | {"name": "pods/binding", "kind": "Binding", "verbs": ["create"]})
    return entries


def feature_metrics(consumable_capacity: bool) -> str:
    """Return the metric by which a driver can see the gate."""
    name = 'kubernetes_feature_enabled{name="DRAConsumableCapacity",stage="BETA"}'
    return f"# TYPE kubernetes_feature_enabled gauge\n{name} {int(consumable_capacity)}\n"

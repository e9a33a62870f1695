"""The cluster at one moment, as the commands that look at it see it: read once, never written.

What decides here is what decides in the controller: its world, fed from lists in place of news.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import yaml

from fracgpu.cli.cluster_options import kubeconfig_of
from fracgpu.controller.allocator.world import CLAIMS, CLASSES, NODES, PODS, QUOTAS, SLICES, Owner, World
from fracgpu.controller.api.listing import list_all
from fracgpu.controller.objects.facts import items, text
from fracgpu.controller.ports import Change, Json
from fracgpu.driver.errors import FracgpuError
from fracgpu.driver.kube.errors import ClusterError, Forbidden, NotFound
from fracgpu.driver.kube.transport import KubernetesTransport
from fracgpu.driver.names import ALLOCATOR_CONTROLLER, ALLOCATOR_SCHEDULER, API_VERSION, ATTR_ALLOCATOR, DRIVER_NAME

_DRA: Final = "/apis/resource.k8s.io/v1"
TEMPLATES: Final = "resourceclaimtemplates"
_PATHS: Final = {
    NODES: "/api/v1/nodes",
    SLICES: f"{_DRA}/resourceslices",
    CLASSES: f"{_DRA}/deviceclasses",
    CLAIMS: f"{_DRA}/resourceclaims",
    TEMPLATES: f"{_DRA}/resourceclaimtemplates",
    PODS: "/api/v1/pods",
    QUOTAS: f"/apis/{API_VERSION}/fractionquotas",
}
_DEFAULT_NAMESPACE: Final = "default"
_POD_NAMESPACE: Final = Path("/var/run/secrets/kubernetes.io/serviceaccount/namespace")


class ClusterUnread(FracgpuError):
    """The cluster did not answer what was asked: not reachable, no right, not Kubernetes 1.34 or later."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Snapshot:
    """Lists of the cluster's objects by the plural of their resource, and the namespace that is meant by default."""

    namespace: str = _DEFAULT_NAMESPACE
    lists: dict[str, Sequence[Json]] = field(default_factory=dict)

    def of(self, resource: str) -> Sequence[Json]:
        """Return the objects of a resource."""
        return self.lists.get(resource, ())

    @property
    def owner(self) -> Owner:
        """Who allocates: kube-scheduler if it owns GPUs and our controller owns none, else the controller."""
        owners = {text(device, "attributes", ATTR_ALLOCATOR, "string") for device in self._devices()}
        return "scheduler" if ALLOCATOR_SCHEDULER in owners and ALLOCATOR_CONTROLLER not in owners else "controller"

    @property
    def keeps_capacity(self) -> bool:
        """Whether the API server keeps capacity fields: our devices always say that they are shared, if it does."""
        devices = self._devices()
        return not devices or any(device.get("allowMultipleAllocations") is True for device in devices)

    def world(self, owner: Owner | None = None) -> World:
        """Return the controller's world, with the GPUs of one owner."""
        world = World(owner or self.owner)
        for resource in (NODES, SLICES, CLASSES, CLAIMS, PODS, QUOTAS):
            for obj in self.of(resource):
                world.apply(Change(resource, "ADDED", obj))
        return world

    def _devices(self) -> list[Json]:
        ours = [item for item in self.of(SLICES) if text(item, "spec", "driver") == DRIVER_NAME]
        return [device for item in ours for device in items(item, "spec", "devices")]


def read_snapshot(parsed: argparse.Namespace, *, templates: bool = False) -> Snapshot:
    """Read the cluster that a command line names. Raises ClusterUnread."""
    kubeconfig = kubeconfig_of(parsed)
    namespace = parsed.namespace or _own_namespace(kubeconfig)
    resources = [resource for resource in _PATHS if templates or resource != TEMPLATES]
    lists = _read(kubeconfig, resources)
    return Snapshot(namespace=namespace, lists=lists)


def read_lists(kubeconfig: Path, *resources: str) -> Snapshot:
    """Read some resources only. Raises ClusterUnread."""
    return Snapshot(lists=_read(kubeconfig, resources))


def _read(kubeconfig: Path | None, resources: Sequence[str]) -> dict[str, Sequence[Json]]:
    try:
        transport = KubernetesTransport(kubeconfig, user_agent="fracgpu")
    except ClusterError as error:
        # Several files may be named, as for kubectl; what is wrong with those the client says.
        absent = kubeconfig is not None and os.pathsep not in str(kubeconfig) and not kubeconfig.exists()
        what = "is not there" if absent else error.what
        raise ClusterUnread(error.subject, what, remedy=error.remedy) from error
    try:
        return {resource: _list(transport, resource) for resource in resources}
    finally:
        transport.close()


def _list(transport: KubernetesTransport, resource: str) -> Sequence[Json]:
    try:
        return list_all(transport, _PATHS[resource]).items
    except NotFound as error:
        if resource == QUOTAS:
            # Its definition is installed where somebody wants quotas.
            return ()
        remedy = "resource.k8s.io/v1 needs Kubernetes 1.34 or later"
        raise ClusterUnread(f"list of {resource}", error.what, remedy=remedy) from error
    except Forbidden as error:
        remedy = f"it takes the right to list {resource} in the whole cluster"
        raise ClusterUnread(f"list of {resource}", error.what, remedy=remedy) from error
    except ClusterError as error:
        remedy = "check --kubeconfig and that the API server answers"
        raise ClusterUnread(f"list of {resource}", error.what, remedy=remedy) from error


def _own_namespace(kubeconfig: Path | None) -> str:
    """Return the namespace of the kubeconfig's current context, or of the pod; a file that is wrong is found later."""
    try:
        if kubeconfig is None:
            return _POD_NAMESPACE.read_text().strip() or _DEFAULT_NAMESPACE
        config: Any = yaml.safe_load(kubeconfig.read_text())
    except (OSError, ValueError, yaml.YAMLError):
        return _DEFAULT_NAMESPACE
    current = text(config, "current-context")
    contexts = [one for one in items(config, "contexts") if text(one, "name") == current]
    return (text(contexts[0], "context", "namespace") if contexts else "") or _DEFAULT_NAMESPACE

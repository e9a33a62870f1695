"""The container runtime: from a container of a pod and its CDI device ids to a process specification.

An image is a name here, nothing is pulled: a container sees the machine's own file system, the commands of the
native probes first in its PATH, and of the GPUs only those whose device nodes its CDI devices carry.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from fracgpu.native.fake_gpu import MACHINE_ENV, VISIBLE_ENV
from fracgpu.native.libraries import NativeLibraries
from fracgpu.sim.node.api import Json
from fracgpu.sim.node.cdi_registry import ContainerEdits
from fracgpu.sim.node.container import ContainerSpec
from fracgpu.sim.node.errors import ContainerCreateError
from fracgpu.sim.node.isolation import Isolation
from fracgpu.sim.node.standalone import build_prefix

_GPU_NODE = re.compile(r"/dev/nvidia(\d+)")
_UNSUPPORTED_IN_CONTAINER = (
    "envFrom",
    "volumeMounts",
    "workingDir",
    "lifecycle",
    "securityContext",
    "livenessProbe",
    "readinessProbe",
    "startupProbe",
)


class CdiResolver(Protocol):
    """What the runtime asks of CDI."""

    def resolve(self, device_ids: Iterable[str]) -> ContainerEdits:
        """Return the merged edits of ``device_ids``."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class ContainerRuntime:
    """Makes process specifications.

    ``machine`` is the file that models the GPU hardware; ``image_env`` is the environment that every image has.
    ``work_dir`` receives logs and, without namespaces, the prefix of each container.
    """

    cdi: CdiResolver
    isolation: Isolation
    libraries: NativeLibraries
    machine: Path
    work_dir: Path
    image_env: Mapping[str, str] = field(default_factory=dict)

    def container_spec(self, pod: Json, container: Json, device_ids: Sequence[str]) -> ContainerSpec:
        """Return the specification of ``container``.

        Raises:
            ContainerCreateError: a CDI device cannot be resolved, or the pod asks for what this runtime has not.

        """
        subject = f"container {_pod_key(pod)}/{container['name']}"
        _refuse_unsupported(subject, pod, container)
        # As containerd: an id that comes again is passed over.
        edits = self.cdi.resolve(dict.fromkeys(device_ids))
        if edits.hooks:
            what = f"its CDI devices ask for hooks ({', '.join(edits.hooks)})"
            raise ContainerCreateError(subject, what, remedy="the embedded runtime runs none")
        env = {"HOME": "/", "HOSTNAME": pod["metadata"]["name"], **self.image_env}
        env |= {entry["name"]: entry.get("value", "") for entry in container.get("env") or []}
        env |= edits.env
        if not self.isolation.mounts:
            prefix = self.directory(pod, container["name"]) / "prefix"
            env |= build_prefix(prefix, edits, self.libraries)
        env |= self._hardware(edits)
        return ContainerSpec(
            subject=subject,
            argv=(*(container.get("command") or ()), *(container.get("args") or ())),
            env=env,
            namespaces=self.isolation.namespaces,
            mounts=edits.mounts if self.isolation.mounts else (),
        )

    def directory(self, pod: Json, container: str) -> Path:
        """Return the directory of logs and prefix of one container."""
        metadata = pod["metadata"]
        return self.work_dir / f"{metadata['namespace']}_{metadata['name']}_{metadata['uid']}" / container

    def log_path(self, pod: Json, container: str, restart: int) -> Path:
        """Return where the output of one run of a container goes."""
        return self.directory(pod, container) / f"{restart}.log"

    def _hardware(self, edits: ContainerEdits) -> dict[str, str]:
        """Translate device nodes: without any the container sees no GPU, as without /dev/nvidia0."""
        minors = [match.group(1) for node in edits.device_nodes if (match := _GPU_NODE.fullmatch(node))]
        return {MACHINE_ENV: str(self.machine), VISIBLE_ENV: ",".join(minors)}


def _refuse_unsupported(subject: str, pod: Json, container: Json) -> None:
    present = [name for name in _UNSUPPORTED_IN_CONTAINER if container.get(name)]
    present += ["securityContext"] if pod["spec"].get("securityContext") else []
    present += [f"hostUsers {pod['spec']['hostUsers']}"] if pod["spec"].get("hostUsers") is False else []
    present += [f"env {entry['name']} valueFrom" for entry in container.get("env") or [] if "valueFrom" in entry]
    if present:
        what = f"the embedded node does not support {', '.join(present)}"
        raise ContainerCreateError(subject, what, remedy="remove it, or use a real cluster")
    if not container.get("command"):
        what = "it has no command, and the embedded node has no image that would bring one"
        raise ContainerCreateError(subject, what, remedy="set command")


def _pod_key(pod: Json) -> str:
    return f"{pod['metadata']['namespace']}/{pod['metadata']['name']}"

"""Which pod and container a process is in, read from its cgroup path. Pure.

The kubelet names the cgroups of pods, and the runtime those of containers, in a handful of ways: cgroupfs or systemd
driver, containerd, CRI-O or Docker, cgroup v1 or v2, below a kubelet that runs in a container itself. All have in
common that the pod's UID is one component and the container's id the next. Only these two are read, from the left: what
stands further right was named inside the container.

Source: k8s.io/kubernetes pkg/kubelet/cm (cgroup names), proc_pid_cgroup(5).
"""

import re
from dataclasses import dataclass
from itertools import pairwise
from typing import Final

# Dashes are underscores where systemd would read a dash as a step down; UIDs of static pods have none of either.
_POD: Final = re.compile(r"(?:.*-)?pod([0-9a-f]{8}(?:[-_]?[0-9a-f]{4}){3}[-_]?[0-9a-f]{12})(?:\.slice)?")
_CONTAINER: Final = re.compile(r"(?:.*-)?([0-9a-f]{64})(?:\.scope)?")


@dataclass(frozen=True, slots=True)
class ContainerRef:
    """A container by its pod's UID and its own id, as the runtime knows them."""

    pod_uid: str
    container_id: str


def parse_cgroup(content: str) -> ContainerRef | None:
    """Return the container that the content of /proc/<pid>/cgroup names, or None for a process outside of pods."""
    # The unified hierarchy (0::) comes last in the file, and is the one that counts where both are in use.
    # Only the line feed ends a line: the name of a group may hold all else that Python takes for a line's end.
    for line in reversed(content.split("\n")):
        _, _, path = line.partition(":")[2].partition(":")
        found = _container(path.split("/"))
        if found is not None:
            return found
    return None


def _container(components: list[str]) -> ContainerRef | None:
    for pod, container in pairwise(components):
        in_pod = _POD.fullmatch(pod)
        if in_pod is not None:
            in_container = _CONTAINER.fullmatch(container)
            uid = in_pod.group(1).replace("_", "-")
            return ContainerRef(uid, in_container.group(1)) if in_container else None
    return None

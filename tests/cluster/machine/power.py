"""The node loses power: whatever is not on its disk is gone, as far as that can be played without another kernel.

What is played: no process, no mount and no cgroup of a pod survives, /run and /dev/shm are empty, the kernel has
another boot id, the GPUs hold nothing. What is not: the page cache survives, so nothing that was written is lost
(docs/dev/crash-safety.md says what would be).
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import time
from pathlib import Path
from typing import Final

from fracgpu.native.fake_gpu import reboot_machine
from tests.cluster.errors import ClusterUnavailable
from tests.cluster.machine import cgroups
from tests.cluster.machine.boot import new_boot_id
from tests.cluster.machine.layout import KUBELET_ROOT, RUN, Layout

_LOOK_S: Final = 0.1
_KILL_S: Final = 20.0
_SHARED_MEMORY: Final = Path("/dev/shm")


def lose_power(layout: Layout, cgroup: str) -> None:
    """Let everything that is not on disk go; kubelet and container runtime have been killed before.

    Raises:
        ClusterUnavailable: something survived, so what would be tested is no reboot.
        FakeMachineInUse: a process still holds memory of a GPU.

    """
    end_containers(cgroup)
    for target in _volatile_mounts(layout):
        subprocess.run(["umount", "--lazy", target], check=False, capture_output=True)
    for place in (RUN, _SHARED_MEMORY):
        for entry in place.iterdir():
            subprocess.run(["rm", "-rf", "--one-file-system", entry], check=True)
    cgroups.remove_cgroups(cgroup)
    survivors = [*map(str, container_processes(cgroup)), *_volatile_mounts(layout), *map(str, RUN.iterdir())]
    if survivors:
        raise ClusterUnavailable("the node", f"kept {', '.join(survivors)} over a reboot", remedy="see who holds them")
    cgroups.make_cgroups(cgroup)
    reboot_machine(layout.gpus)
    new_boot_id(layout)


def end_containers(cgroup: str) -> None:
    """Kill every shim and every process of a container, and wait until they are gone."""
    end = time.monotonic() + _KILL_S
    while (pids := container_processes(cgroup)) and time.monotonic() < end:
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        time.sleep(_LOOK_S)


def container_processes(cgroup: str) -> set[int]:
    """Return the processes in the pods' cgroups, and the shims, which are in none of them."""
    found = set()
    for directory in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            command = (directory / "cmdline").read_bytes().split(b"\0")[0]
            inside = f"/{cgroup}/kubepods" in (directory / "cgroup").read_text()
            alive = (directory / "stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
            if alive and (inside or command.endswith(b"containerd-shim-runc-v2")):
                found.add(int(directory.name))
    return found


def _volatile_mounts(layout: Layout) -> list[str]:
    """Return what containers and pods have mounted, the last mount first."""
    places = tuple(f"{place}/" for place in (RUN, KUBELET_ROOT, layout.containerd))
    targets = [line.split()[4] for line in Path("/proc/self/mountinfo").read_text().splitlines()]
    return [target for target in reversed(targets) if target.startswith(places)]

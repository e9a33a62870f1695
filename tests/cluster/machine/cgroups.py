"""Cgroups of the node's pods: one directory of our own in every hierarchy, removed when the run is over.

They are the one thing that does not go with the namespaces of a run that was killed, so the next run looks for them.
It must not take those of a run that goes on, which has processes in some: its first process enters one at once.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Final

_ROOT: Final = Path("/sys/fs/cgroup")
_PREFIX: Final = "fracgpu-e2e-"
_RUNNER: Final = "runner"


def is_unified() -> bool:
    """Tell whether the machine has cgroup v2 only; the kubelet wants to be told otherwise."""
    return (_ROOT / "cgroup.controllers").exists()


def cgroup_name(run: str) -> str:
    """Return the name of the top cgroup of a run."""
    return f"{_PREFIX}{run}"


def make_cgroups(name: str) -> None:
    """Create the cgroup in every hierarchy, with the controllers that pods need."""
    for hierarchy in _hierarchies():
        top = hierarchy / name
        top.mkdir(exist_ok=True)
        if hierarchy.name == "cpuset":
            # In v1 a new cpuset is empty, and no process may enter it.
            for file in ("cpuset.cpus", "cpuset.mems"):
                (top / file).write_text((hierarchy / file).read_text())
        controllers = hierarchy / "cgroup.controllers"
        if controllers.exists():
            for group in (hierarchy, top):
                for controller in controllers.read_text().split():
                    with contextlib.suppress(OSError):  # a controller that v1 holds, or that the kernel lends to nobody
                        (group / "cgroup.subtree_control").write_text(f"+{controller}")


def enter_cgroups(name: str) -> None:
    """Put this process, and those that it will start, into a cgroup among the run's: it shows that the run goes on."""
    # One hierarchy is enough. A new cpuset of version 1 would have to be filled first.
    own = next(path for path in sorted(_hierarchies()) if path.name != "cpuset") / name / _RUNNER
    own.mkdir(exist_ok=True)
    (own / "cgroup.procs").write_text(str(os.getpid()))


def remove_cgroups(name: str) -> None:
    """Remove a run's cgroups, deepest first. What still has processes stays, to be removed by a later run."""
    for hierarchy in _hierarchies():
        top = hierarchy / name
        if top.is_dir():
            groups = [top, *(path for path in top.rglob("*") if path.is_dir())]
            for group in sorted(groups, key=lambda path: len(path.parts), reverse=True):
                with contextlib.suppress(OSError):
                    group.rmdir()


def abandoned_runs() -> set[str]:
    """Return the runs that have left cgroups: no process is in any of them."""
    found = {path.name for hierarchy in _hierarchies() for path in hierarchy.glob(f"{_PREFIX}*")}
    return {name.removeprefix(_PREFIX) for name in found if not _has_processes(name)}


def _has_processes(name: str) -> bool:
    groups = (path for hierarchy in _hierarchies() for path in hierarchy.glob(f"{name}/**/cgroup.procs"))
    return any(_read(path).strip() for path in groups)


def _read(path: Path) -> str:
    try:
        return path.read_text()
    except OSError:  # removed meanwhile; and a threaded group of version 2 does not list processes
        return ""


def pod_cgroups(name: str) -> set[str]:
    """Return the cgroups of pods below a run's cgroup, by their paths."""
    return {str(path) for hierarchy in _hierarchies() for path in hierarchy.glob(f"{name}/kubepods/**/pod*")}


def _hierarchies() -> Iterator[Path]:
    if is_unified():
        yield _ROOT
    else:
        # Links such as cpu -> cpu,cpuacct name a hierarchy twice.
        yield from (path for path in _ROOT.iterdir() if path.is_dir() and not path.is_symlink())

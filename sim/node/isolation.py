"""Can containers of the embedded cluster have namespaces of their own on this machine?

The only reliable answer is to try: kernels, security modules and outer container runtimes each have their own switch.
What is tried is the very thing a container needs, and when it fails the user is told which step did.
"""

from __future__ import annotations

import os
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path

from fracgpu.driver.errors import FracgpuError
from fracgpu.sim.node.cdi_registry import Mount
from fracgpu.sim.node.container import ContainerProcess, ContainerSpec

# Mount points that exist nowhere, beside the places where driver libraries go.
_PROBE_TARGETS = ("/usr/lib/fracgpu-probe/file", "/run/fracgpu-probe/file")


@dataclass(frozen=True, slots=True)
class Isolation:
    """How containers are separated: which namespaces (none: stand-alone prefix), and the words for the user."""

    namespaces: tuple[str, ...]
    description: str

    @property
    def mounts(self) -> bool:
        """Tell whether containers can have mounts of their own."""
        return bool(self.namespaces)


MOUNT_NAMESPACE = Isolation(("mount",), "mount namespaces")
USER_NAMESPACE = Isolation(("user", "mount"), "user+mount namespaces")


def standalone(reason: str) -> Isolation:
    """Return the fallback without namespaces, for ``reason``."""
    return Isolation((), f"standalone prefix: {reason}")


def probe_isolation(*, candidates: tuple[Isolation, ...] | None = None) -> Isolation:
    """Return the best isolation that works here and now, after having run a container in it.

    ``candidates`` defaults to a plain mount namespace for root, then a user namespace with a mount namespace inside.
    """
    if candidates is None:
        candidates = (MOUNT_NAMESPACE, USER_NAMESPACE) if os.geteuid() == 0 else (USER_NAMESPACE,)
    reason = "not tried"
    for candidate in candidates:
        try:
            _try(candidate)
        except FracgpuError as error:
            reason = f"{candidate.description} not permitted ({error.what})"
        else:
            return candidate
    return standalone(reason)


def _try(candidate: Isolation) -> None:
    with tempfile.NamedTemporaryFile(prefix="fracgpu-probe-") as source:
        source.write(b"mounted\n")
        source.flush()
        mounts = tuple(Mount(source.name, target, ("ro",)) for target in _PROBE_TARGETS)
        checks = " && ".join(f'read word < {target} && [ "$word" = mounted ]' for target in _PROBE_TARGETS)
        spec = ContainerSpec(
            subject="isolation probe",
            argv=("sh", "-c", checks),
            env={"PATH": os.defpath},
            namespaces=candidate.namespaces,
            mounts=mounts,
        )
        process = ContainerProcess(spec, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        if process.wait() != 0:
            raise FracgpuError(spec.subject, "mounts do not show", remedy="containers use a stand-alone prefix instead")


def runs_programs(directory: Path) -> bool:
    """Tell whether files below ``directory`` may be executed and mapped as libraries (no ``noexec`` mount)."""
    return not os.statvfs(directory).f_flag & os.ST_NOEXEC

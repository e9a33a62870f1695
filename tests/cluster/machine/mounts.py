"""The file systems of the node, in a mount namespace of its own: the machine's root with private places on top.

/run is a tmpfs as on any systemd machine, so a reboot can be played by emptying it. /dev is a tmpfs with device nodes
made here, because the machine's own devtmpfs is one for all namespaces and must not get NVIDIA's.
"""

from __future__ import annotations

import os
import stat
import subprocess
from collections.abc import Iterable
from pathlib import Path
from typing import Final

from tests.cluster.machine.boot import BOOT_ID, new_boot_id
from tests.cluster.machine.layout import RUN, Layout

_DEV: Final = Path("/dev")
# Linux's admin-guide/devices.txt; NVIDIA's are those of its driver's README.
_STANDARD: Final = {
    "null": (1, 3),
    "zero": (1, 5),
    "full": (1, 7),
    "random": (1, 8),
    "urandom": (1, 9),
    "kmsg": (1, 11),
    "tty": (5, 0),
    "fuse": (10, 229),
}
_NVIDIA_MAJOR: Final = 195
_NVIDIA_CONTROL: Final = {"nvidiactl": (_NVIDIA_MAJOR, 255), "nvidia-uvm": (510, 0), "nvidia-uvm-tools": (510, 1)}
_LINKS: Final = {"fd": "/proc/self/fd", "stdin": "fd/0", "stdout": "fd/1", "stderr": "fd/2", "ptmx": "pts/ptmx"}


def mount(*arguments: str | Path) -> None:
    """Call the program of section 8 with these arguments; raises CalledProcessError."""
    subprocess.run(["mount", *map(str, arguments)], check=True)


def make_file_systems(layout: Layout, *, gpus: Iterable[int]) -> None:
    """Mount everything; `gpus` are the minor numbers of the device nodes. To be called once, in a new namespace."""
    # Nothing may travel back to the real machine; within the node, volumes must travel into containers.
    mount("--make-rprivate", "/")
    mount("--make-rshared", "/")
    for target, source in layout.mounts().items():
        source.mkdir(parents=True, exist_ok=True)
        target.mkdir(parents=True, exist_ok=True)
        mount("--bind", source, target)
        mount("--make-rshared", target)
    mount("-t", "tmpfs", "-o", "mode=755", "tmpfs", RUN)
    mount("--make-rshared", RUN)
    (RUN / "lock").mkdir(mode=0o1777)
    new_boot_id(layout)
    mount("--bind", layout.boot_id, BOOT_ID)
    _make_dev(gpus)


def _make_dev(gpus: Iterable[int]) -> None:
    mount("-t", "tmpfs", "-o", "mode=755,nosuid", "tmpfs", _DEV)
    mount("--make-rshared", _DEV)
    nvidia = {f"nvidia{minor}": (_NVIDIA_MAJOR, minor) for minor in gpus} | _NVIDIA_CONTROL
    for name, (major, minor) in (_STANDARD | nvidia).items():
        node = _DEV / name
        os.mknod(node, 0o666 | stat.S_IFCHR, os.makedev(major, minor))
        node.chmod(0o666)
    for name, target in _LINKS.items():
        (_DEV / name).symlink_to(target)
    for name, kind, options in (
        ("pts", "devpts", "mode=620,ptmxmode=666,gid=5"),
        ("shm", "tmpfs", "mode=1777"),
        ("mqueue", "mqueue", "nosuid"),
    ):
        (_DEV / name).mkdir()
        mount("-t", kind, "-o", options, kind, _DEV / name)

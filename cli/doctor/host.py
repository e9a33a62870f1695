"""The machine under examination, as the checks may look at it.

Everything that a check reads comes through here, so a test can lay out a machine as a directory tree. The host's root
may be mounted elsewhere (in the plugin's pod), and links in it mean places on the host: names are resolved inside it.
"""

from __future__ import annotations

import fnmatch
import os
import stat
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path, PurePath

from fracgpu.cdi.errors import DriverFilesMissing, ElfInvalid
from fracgpu.cdi.rooted import resolve_in_root
from fracgpu.cdi.roots import DriverRoot, find_driver_root
from fracgpu.cli.doctor.nvml_facts import NvmlFacts
from fracgpu.native.libraries import NativeLibraries

# No file that a check reads is larger; a larger one is not what it looks for.
_MAX_TEXT_BYTES = 4 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Host:
    """One machine.

    `root` is its root directory and `proc` its /proc, as this process sees them; `kubelet_root` is what the host calls
    the kubelet's directory. `in_pod` tells that this process runs in a pod. `machine` and `kernel_release` are those of
    uname(2). `ask_nvml` takes the libnvidia-ml to ask and raises FracgpuError; `answers` tells whether somebody listens
    on a Unix socket; `locate_interceptor` raises NativeLibrariesMissing.
    """

    root: Path
    proc: Path
    kubelet_root: Path
    in_pod: bool
    machine: str
    kernel_release: str
    ask_nvml: Callable[[Path], NvmlFacts]
    answers: Callable[[Path], bool]
    locate_interceptor: Callable[[], NativeLibraries]

    def path(self, name: str | PurePath) -> Path | None:
        """Return where the host's `name` is for this process, links resolved; None when it is not there."""
        try:
            return resolve_in_root(self.root, str(name))
        except OSError:
            return None

    def is_hidden(self, name: str | PurePath) -> bool:
        """Tell whether this process may not even see if the host's `name` is there, or what is in it."""
        try:
            place = resolve_in_root(self.root, str(name))
        except PermissionError:
            return True
        return place is not None and not os.access(place, os.R_OK)

    def entries(self, directory: str | PurePath, pattern: str = "*") -> tuple[Path, ...]:
        """Return the files of the host's `directory` that match, as paths for this process, sorted by name.

        Those that are links are not followed: what is in them is for `text`, which stays on the host.
        """
        place = self.path(directory)
        if place is None:
            return ()
        try:
            return tuple(sorted(path for path in place.iterdir() if fnmatch.fnmatch(path.name, pattern)))
        except OSError:
            return ()

    def text(self, name: str | PurePath) -> str | None:
        """Return the content of the host's file `name`; None when it is not there or can not be read."""
        place = self.path(name)
        return None if place is None else read_text(place)

    def is_writable(self, place: Path) -> bool:
        """Tell whether this process may make files in `place`, a path for this process."""
        return os.access(place, os.W_OK | os.X_OK)

    def process_names(self) -> Iterator[str]:
        """Return the names of the processes that are visible here."""
        for comm in self.proc.glob("[0-9]*/comm"):
            yield (read_text(comm) or "").strip()

    def driver(self) -> DriverRoot | None:
        """Return the driver in use; None when there is none or none that is complete."""
        try:
            return find_driver_root(self.root, proc=self.proc)
        except (DriverFilesMissing, ElfInvalid, OSError):
            return None


def read_text(path: Path) -> str | None:
    """Return the content of a regular file of reasonable size; None for any other, or when it is no text."""
    try:
        # A pipe would keep us waiting for a writer.
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)
        with os.fdopen(descriptor, "rb") as file:
            content = file.read(_MAX_TEXT_BYTES + 1) if stat.S_ISREG(os.fstat(descriptor).st_mode) else None
    except OSError:
        return None
    if content is None or len(content) > _MAX_TEXT_BYTES:
        return None
    try:
        return content.decode()
    except UnicodeDecodeError:
        return None

"""What the tests of this directory share: the limit, what a program under it prints, and loaders."""

from dataclasses import dataclass
from pathlib import Path

GPU = "GPU-11111111-2222-3333-4444-555555555555"
MIB = 1 << 20
LIMIT_MIB = 1024
CAPPED = ["init 0", "alloc 600 0", "alloc 500 2", "nvml 0 1024 600", "alloc 424 0"]
"""What `ways` prints where the limit holds, however it got at the driver."""


@dataclass(frozen=True)
class Loader:
    """A C library below `root`, and its dynamic linker."""

    root: Path

    def command(self, *search: Path) -> list[str]:
        """Return what starts a program with this C library, to be followed by its path; `search` comes first."""
        # Beside the library: the link in /lib64 is absolute in some releases, and leads to the machine's own.
        (library,) = self.root.rglob("libc.so.6")
        (linker,) = library.parent.glob("ld-linux-*.so.*")
        path = ":".join(map(str, (*search, library.parent)))
        return [str(linker), "--library-path", path]

"""A Debian root file system with Python: what the images of the plugin and of most workloads stand on.

Made by debootstrap from the machine's own mirror. What only people read is left out, and Python's compiled files are
made again: they normally name the time of their source, and in a tar without times every one of them would be stale, so
each start of Python would compile all that it imports.
"""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from tests.cluster.build import apt, tarball
from tests.cluster.build.cache import Cache
from tests.cluster.build.command import run
from tests.cluster.build.key import Inputs

RELEASE: Final = "bookworm"
_INCLUDED: Final = ("python3",)
_LAYER, _FACTS = "layer.tar", "facts.json"
# Contents of directories: the kernel's, the runtime's, and what only people or apt read.
_EMPTIED: Final = (
    *("dev", "proc", "sys", "run", "tmp", "boot"),
    *("usr/share/doc", "usr/share/man", "usr/share/locale", "usr/share/info", "usr/share/lintian"),
    *("var/lib/apt/lists", "var/cache", "var/log"),
)
_FACTS_PROGRAM: Final = (
    "import platform, sys; print(*sys.version_info[:2], *platform.libc_ver()[1].split('.'), sep='\\n')"
)


@dataclass(frozen=True)
class Debian:
    """The finished file system as an image layer, and the versions that packages for it must fit."""

    layer: Path
    key: str
    python: tuple[int, int]
    glibc: tuple[int, int]

    @property
    def site_packages(self) -> str:
        """Where Debian's Python looks for packages that are not Debian's; without a leading slash."""
        return f"usr/local/lib/python{self.python[0]}.{self.python[1]}/dist-packages"

    def compile_python(self, tree: Path, scratch: Path) -> None:
        """Compile the Python files of a tree with this system's own interpreter, for good.

        Args:
            tree: what a layer on top of this one is made of
            scratch: an empty directory on the same disk, to be removed by the caller

        Raises:
            CommandFailed: a file cannot be compiled

        """
        run(["tar", "--extract", "--file", self.layer, "--directory", scratch])
        inside = scratch / "tree"
        tree.rename(inside)
        try:
            _compile(scratch, "/tree")
        finally:
            inside.rename(tree)


def build(cache: Cache) -> Debian:
    """Return the file system, made now unless the cache has it.

    Raises:
        BuildError: see apt.program and apt.mirror; debootstrap or the new system's Python fail

    """
    inputs = (
        Inputs()
        .file(Path(__file__))
        .file(Path(tarball.__file__))
        .text("release", RELEASE)
        .text("included", ",".join(_INCLUDED))
    )
    key = inputs.key()
    directory = cache.get("debian", key, _make)
    facts = json.loads((directory / _FACTS).read_text())
    return Debian(directory / _LAYER, key, python=tuple(facts["python"]), glibc=tuple(facts["glibc"]))


def _make(target: Path) -> None:
    root = target / "root"
    debootstrap = apt.program("debootstrap", "debootstrap")
    options = ["--variant=minbase", f"--include={','.join(_INCLUDED)}", "--force-check-gpg"]
    # The programs that write /etc/shadow take "today" from there.
    environment = {"SOURCE_DATE_EPOCH": "0", **apt.proxy_environment()}
    # It mounts the kernel's file systems inside, and starts many programs. In namespaces of its own they are gone when
    # it is: nobody who cleans up after a killed build walks into the mounts, or meets a program that still writes.
    alone = ["unshare", "--mount", "--propagation", "private", "--pid", "--fork", "--kill-child", "--mount-proc"]
    run([*alone, debootstrap, *options, RELEASE, root, apt.mirror()], environment=environment)
    for cached in list(root.rglob("__pycache__")):
        shutil.rmtree(cached)
    for packages in sorted(root.glob("usr/lib/python3*")):
        _compile(root, f"/{packages.relative_to(root)}")
    facts = [int(line) for line in run(["chroot", root, "python3", "-c", _FACTS_PROGRAM]).splitlines()]
    (target / _FACTS).write_text(json.dumps({"python": facts[:2], "glibc": facts[2:]}))
    tarball.write_tar(target / _LAYER, root, excluded=_is_left_out)
    shutil.rmtree(root)


def _is_left_out(path: str) -> bool:
    return any(path.startswith(f"{directory}/") for directory in _EMPTIED)


def _compile(root: Path, directory: str) -> None:
    """Compile every Python file below a directory of a system; the result holds whatever the times of its files."""
    command = ["python3", "-m", "compileall", "-q", "--invalidation-mode", "unchecked-hash", directory]
    run(["chroot", root, *command])

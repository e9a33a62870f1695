"""Layers without a distribution: a single static program, and other C libraries than the node's.

In all of them /pause is what stays: there is no shell and no sleep.
"""

from __future__ import annotations

import shutil
import sys
from pathlib import Path
from typing import Final

from tests.cluster.build import apt, checkout, debian
from tests.cluster.build.cache import Cache
from tests.cluster.build.command import run
from tests.cluster.build.key import Inputs
from tests.cluster.build.layers import Layer, copy_into, layer

_HERE: Final = Path(__file__).resolve()
_PAUSE: Final = _HERE.parents[1] / "binaries" / "pause.c"
_PROBES: Final = checkout.ROOT / "native" / "probe"
_ZIG: Final = (sys.executable, "-m", "ziglang", "cc", "-target", "x86_64-linux-musl")
# The same for all: zig compiles a static musl for each set of options, which takes longer than all that uses it.
_CFLAGS: Final = ("-std=gnu11", "-O2", "-s", "-fno-sanitize=all", "-Wall", "-Wextra", "-Werror")
# Debian with a C library older and newer than that of `debian`.
GLIBC_RELEASES: Final = {"glibc-old": "bullseye", "glibc-new": "trixie"}


def pause(cache: Cache) -> Layer:
    """Return the static program of pods' sandboxes, as /pause.

    Raises:
        CommandFailed: it cannot be compiled

    """

    def fill(tree: Path, _scratch: Path) -> None:
        run([*_ZIG, "-static", *_CFLAGS, "-o", tree / "pause", _PAUSE])

    return layer(cache, "layer-pause", Inputs().file(_HERE).file(_PAUSE), fill)


def musl(cache: Cache) -> Layer:
    """Return musl's loader from Debian, the probes linked against it, and each once more as a static program.

    Raises:
        BuildError: see apt.unpack; the probes cannot be compiled

    """

    def fill(tree: Path, scratch: Path) -> None:
        apt.unpack(debian.RELEASE, "musl", tree, scratch=_fresh(scratch / "apt"))
        _drop_documents(tree)
        for linking, suffix in (("-dynamic", ""), ("-static", "-static")):
            built = scratch / linking
            compiler = " ".join((*_ZIG, linking))
            options = [f"OUT={built}", f"CC={compiler}", f"CFLAGS={' '.join(_CFLAGS)}"]
            run(["make", "--silent", "-f", _PROBES / "rules.mk", "probe", *options])
            for program in (built / "probe").iterdir():
                program.rename(program.with_name(program.name + suffix))
            copy_into(tree, "usr/local/bin", (built / "probe").iterdir())

    inputs = Inputs().file(_HERE).text("release", debian.RELEASE).files(_PROBES, _PROBES.iterdir())
    return layer(cache, "layer-musl", inputs, fill)


def glibc(cache: Cache, name: str) -> Layer:
    """Return the C library of another Debian release with its loader, and the probes.

    Args:
        cache: where the layer is kept
        name: a key of GLIBC_RELEASES

    Raises:
        BuildError: see apt.unpack

    """
    release = GLIBC_RELEASES[name]
    programs = checkout.probes()

    def fill(tree: Path, scratch: Path) -> None:
        apt.unpack(release, "libc6", tree, scratch=_fresh(scratch / "apt"))
        _drop_documents(tree)
        # Since these became links, no package has them; Debian's installer makes them.
        for directory in ("lib", "lib64"):
            if not (tree / directory).exists():
                (tree / directory).symlink_to(f"usr/{directory}")
        copy_into(tree, "usr/local/bin", programs)

    inputs = Inputs().file(_HERE).text("release", release).files(programs[0].parent, programs)
    return layer(cache, f"layer-{name}", inputs, fill)


def _drop_documents(tree: Path) -> None:
    shutil.rmtree(tree / "usr" / "share", ignore_errors=True)


def _fresh(directory: Path) -> Path:
    directory.mkdir()
    return directory

"""Everything that is built before a cluster can start, in one call."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from tests.cluster.build import apt, checkout, debian, golang, images
from tests.cluster.build.cache import Cache, Report, cache_root
from tests.cluster.build.errors import NotRoot

_SYSTEM_PROGRAMS: Final = {"ip": "iproute2", "debootstrap": "debootstrap"}


@dataclass(frozen=True)
class Artifacts:
    """What a cluster is made of.

    The images are archives for `ctr images import`, by the names that pods use. runc is Debian's; it is on the path of
    root's programs.
    """

    kubernetes: Path
    containerd_dir: Path
    cni_dir: Path
    runc: Path
    images: Mapping[str, Path]

    @property
    def kubectl(self) -> Path:
        """The multi-call binary under the name of one of its parts."""
        return self.kubernetes.with_name("kubectl")


def build(report: Report | None = None) -> Artifacts:
    """Build what the cache does not have, and return where everything is. It stays there until this process ends.

    Args:
        report: is told what is built and how long it took, line by line; standard error unless given

    Raises:
        BuildError: something cannot be built; the text says what is missing and how to get it
        OSError: the cache cannot be written

    """
    if os.geteuid() != 0:
        raise NotRoot("the images", "can only be made by root", remedy="run it as root")
    tell = report or _tell
    for program, package in _SYSTEM_PROGRAMS.items():
        apt.program(program, package)
    runc = apt.program("runc", "runc")
    checkout.build_native()
    cache = Cache(cache_root(), tell)
    programs = golang.build(cache)
    archives = images.build(cache, debian.build(cache))
    return Artifacts(programs.kubernetes, programs.containerd_dir, programs.cni_dir, runc, archives)


def _tell(line: str) -> None:
    sys.stderr.write(f"e2e build: {line}\n")
    sys.stderr.flush()

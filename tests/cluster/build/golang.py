"""Kubernetes, etcd and containerd, built from their published Go modules with a Go compiler from PyPI.

Debian's compiler is too old for them, and a compiler that fetches another one of itself would not be the pinned one.
Sources and compiled packages go where Go keeps them for this user (`go env GOMODCACHE GOCACHE`), so that what a change
of one module costs is that module.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from tests.cluster.build.cache import Cache
from tests.cluster.build.command import run
from tests.cluster.build.errors import LockEntryMissing
from tests.cluster.build.key import Inputs

_HERE: Final = Path(__file__).resolve()
_CLUSTER: Final = _HERE.parents[1]
_LOCK: Final = _CLUSTER / "requirements.lock"
_KUBERNETES: Final = _CLUSTER / "binaries" / "kubernetes"
_CONTAINERD: Final = _CLUSTER / "binaries" / "containerd"
# The names that main.go answers to.
KUBERNETES_PARTS: Final = ("etcd", "kube-apiserver", "kube-controller-manager", "kube-scheduler", "kubectl", "kubelet")
CNI_PLUGINS: Final = ("host-local", "loopback", "ptp")


@dataclass(frozen=True)
class GoPrograms:
    """Where the programs are: links to the multi-call binary beside it, CNI's plugins in a directory of their own."""

    kubernetes: Path
    containerd_dir: Path
    cni_dir: Path


def build(cache: Cache) -> GoPrograms:
    """Return the programs, built now unless the cache has them: five minutes for Kubernetes the first time.

    Raises:
        CommandFailed: a module cannot be had or not be compiled
        LockEntryMissing: a version is not pinned where it should be

    """
    toolchain = Toolchain(cache)
    kubernetes = toolchain.programs("kubernetes", _KUBERNETES, _kubernetes_stamps(), _make_links)
    containerd = toolchain.programs("containerd", _CONTAINERD, _containerd_stamps(), _separate_plugins, what="tool")
    return GoPrograms(kubernetes / "kubernetes", containerd, containerd / "cni")


class Toolchain:
    """The pinned Go compiler, installed into the cache."""

    def __init__(self, cache: Cache) -> None:
        self._cache = cache
        self._key = Inputs().file(_HERE).file(_LOCK).key()

    def programs(
        self, name: str, module: Path, stamps: Mapping[str, str], arrange: Callable[[Path], None], *, what: str = "."
    ) -> Path:
        """Return the directory of a module's programs.

        Args:
            name: of the artefact
            module: directory with go.mod
            stamps: string variables to set, by their full names
            arrange: puts the built programs into order
            what: the package to build, or `tool` for all that go.mod names so

        """
        flags = ["-s", "-w", *(f"-X={variable}={value}" for variable, value in stamps.items())]
        inputs = Inputs().text("toolchain", self._key).text("flags", " ".join(flags)).text("what", what)
        inputs.files(module, [module / "go.mod", module / "go.sum", *module.glob("*.go")])

        def make(target: Path) -> None:
            # Not stamped with the checkout's commit: that would make every commit a new program.
            reproducible = ["-trimpath", "-buildvcs=false"]
            self.go("build", *reproducible, f"-ldflags={' '.join(flags)}", "-o", f"{target}/", what, cwd=module)
            arrange(target)

        return self._cache.get(name, inputs.key(), make)

    def go(self, *arguments: str, cwd: Path) -> str:
        """Run the go command.

        Raises:
            CommandFailed: with what it said

        """
        root = self._cache.get("go", self._key, _install) / "go"
        # A `go env -w` of the user must not decide what is built here.
        environment = {
            "GOROOT": str(root),
            "GOTOOLCHAIN": "local",
            "GOFLAGS": "-mod=readonly",
            "GOWORK": "off",
            "CGO_ENABLED": "0",
            "GOOS": "linux",
            "GOARCH": "amd64",
        }
        return run([root / "bin" / "go", *arguments], cwd=cwd, environment=environment)


def version_in(go_mod: str, module: str) -> str:
    """Return the version that a go.mod requires of a module, with its leading v.

    Raises:
        LockEntryMissing: it does not require it

    """
    required = re.search(rf"^(?:require)?\s+{re.escape(module)} (v\S+)", go_mod, re.MULTILINE)
    if required is None:
        raise LockEntryMissing(module, "is not required by go.mod", remedy="run `go get` for it beside that file")
    return required[1]


def _install(target: Path) -> None:
    pip = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check"]
    run([*pip, "install", "--no-compile", "--no-deps", "--require-hashes", "--target", target, "--requirement", _LOCK])


def _kubernetes_stamps() -> dict[str, str]:
    """Return what `--version` and the API server's /version say; unstamped they call themselves v0.0.0-master."""
    version = version_in((_KUBERNETES / "go.mod").read_text(), "k8s.io/kubernetes")
    major, minor, _ = version.removeprefix("v").split(".", 2)
    package = "k8s.io/component-base/version"
    return {f"{package}.gitVersion": version, f"{package}.gitMajor": major, f"{package}.gitMinor": minor}


def _containerd_stamps() -> dict[str, str]:
    module = "github.com/containerd/containerd/v2"
    return {f"{module}/version.Version": version_in((_CONTAINERD / "go.mod").read_text(), module)}


def _make_links(directory: Path) -> None:
    for part in KUBERNETES_PARTS:
        (directory / part).symlink_to("kubernetes")


def _separate_plugins(directory: Path) -> None:
    (directory / "cni").mkdir()
    for plugin in CNI_PLUGINS:
        (directory / plugin).rename(directory / "cni" / plugin)

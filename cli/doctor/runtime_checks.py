"""Will the container runtime read our CDI specs, and what else is in its directories?

Sources: containerd docs/cri/config.md (CDI is off unless set with 1.7, and on with 2.x, whose configuration has version
3), crio.conf(5), CDI SPEC.md (the directories).
"""

from __future__ import annotations

import json
import re
import tomllib
from collections.abc import Iterator, Sequence
from pathlib import PurePosixPath
from typing import Any

from fracgpu.cli.doctor.finding import Finding, fail, info, ok, warn
from fracgpu.cli.doctor.host import Host
from fracgpu.driver.names import CDI_VENDOR

CDI_DIRECTORY = "/var/run/cdi"
_CDI_DIRECTORIES = ("/etc/cdi", CDI_DIRECTORY)
# Of a YAML document at its outermost level.
_KIND = re.compile(r"""^["']?kind["']?[ \t]*:[ \t]*["']?([^\s"',]+)""", re.MULTILINE)
_CONTAINERD_CONFIGS = (
    "/etc/containerd/config.toml",
    "/var/lib/rancher/k3s/agent/etc/containerd/config.toml",
    "/var/lib/rancher/rke2/agent/etc/containerd/config.toml",
    "/var/snap/microk8s/current/args/containerd.toml",
    "/etc/k0s/containerd.toml",
    "/etc/cri/containerd.toml",
)
# By the version of the configuration file: the plugin whose section has the CDI settings.
_CRI_PLUGINS = {1: "cri", 2: "io.containerd.grpc.v1.cri", 3: "io.containerd.cri.v1.runtime"}
_VERSION_WITH_CDI_ON = 3
_CRIO_SOCKET = "/run/crio/crio.sock"


def check_cdi_directory(host: Host) -> Iterator[Finding]:
    """Our specs go into a directory that the plugin can write."""
    place = host.path(CDI_DIRECTORY)
    if place is None:
        yield info("CDI directory", f"{CDI_DIRECTORY} is not there yet; the plugin makes it")
    elif not place.is_dir():
        yield fail("CDI directory", f"{CDI_DIRECTORY} is no directory", "move it away")
    elif not host.is_writable(place):
        yield warn(
            "CDI directory", f"{CDI_DIRECTORY} can not be written to from here", "mount it writable, run as root"
        )
    else:
        yield ok("CDI directory", f"{CDI_DIRECTORY} is writable")


def check_cdi_specs(host: Host) -> Iterator[Finding]:
    """Ours, and those of others that bring a driver along: of two mounts at one path the later wins."""
    ours = 0
    for directory in _CDI_DIRECTORIES:
        for path in host.entries(directory):
            if path.suffix not in (".json", ".yaml", ".yml"):
                continue
            name = PurePosixPath(directory, path.name)
            text = host.text(name) or ""
            kind = _kind(text)
            if kind.startswith(f"{CDI_VENDOR}/"):
                ours += 1
            elif "libcuda.so" in text or kind.startswith("nvidia.com/"):
                what = f"{name} ({kind}) brings a driver into containers, too"
                yield info("CDI specs", what, "give a container a device of that kind or a claim of ours, not both")
    yield ok("CDI specs", f"{ours} of ours")


def check_runtime(host: Host) -> Iterator[Finding]:
    """The runtime has CDI switched on and reads our directory."""
    found = False
    for name in _CONTAINERD_CONFIGS:
        if host.path(name) is not None:
            found = True
            yield _containerd(host, name)
    if host.path(_CRIO_SOCKET) is not None:
        found = True
        yield ok("container runtime", "CRI-O, which has CDI on from 1.23")
    if not found:
        what = "no configuration of containerd and no CRI-O to be seen from here"
        yield info(
            "container runtime", what, "containerd 1.7 needs enable_cdi = true; containerd 2 and CRI-O have it on"
        )


def _kind(text: str) -> str:
    try:
        document = json.loads(text)
    except (ValueError, RecursionError):
        match = _KIND.search(text)
        return match[1] if match else "no kind"
    return str(document.get("kind", "no kind")) if isinstance(document, dict) else "no kind"


def _containerd(host: Host, name: str) -> Finding:
    try:
        version, settings = _cri_settings(host, PurePosixPath(name))
        directories = _texts(settings, "cdi_spec_dirs", _CDI_DIRECTORIES)
    except (ValueError, TypeError, AttributeError, RecursionError) as error:
        return warn("container runtime", f"{name} can not be understood: {error}", "check it: containerd config dump")
    enabled = settings.get("enable_cdi", True if version >= _VERSION_WITH_CDI_ON else None)
    if enabled is False:
        return fail("container runtime", f"{name} has enable_cdi = false", "set it to true and restart containerd")
    if not {CDI_DIRECTORY, CDI_DIRECTORY.removeprefix("/var")} & set(directories):
        remedy = f"add {CDI_DIRECTORY}, or start the plugin with --cdi-dir of one that is there"
        return fail("container runtime", f"{name} reads CDI specs from {', '.join(directories)} only", remedy)
    if enabled is None:
        remedy = f'add enable_cdi = true below [plugins."{_CRI_PLUGINS[2]}"]'
        return warn("container runtime", f"{name} leaves CDI to the default, which is off before containerd 2", remedy)
    return ok("container runtime", f"{name} has CDI on")


def _cri_settings(host: Host, name: PurePosixPath) -> tuple[int, dict[str, Any]]:
    """Return the version of the configuration and the CRI plugin's settings, those of imported files laid over them.

    Raises ValueError, TypeError, AttributeError and RecursionError for files that containerd would not take either.
    """
    documents = [_document(host, name)]
    for pattern in _texts(documents[0], "imports", ()):
        # A relative one is meant from the file that imports.
        place = name.parent / pattern
        imported = host.entries(str(place.parent), place.name)
        documents.extend(_document(host, place.parent / path.name) for path in imported)
    settings: dict[str, Any] = {}
    for document in documents:
        plugins = document.get("plugins", {})
        settings |= plugins.get(_CRI_PLUGINS.get(document.get("version", 1), ""), {})
    version = documents[0].get("version", 1)
    if not isinstance(version, int):
        raise TypeError(f"version is {version!r}")
    return version, settings


def _document(host: Host, name: PurePosixPath) -> dict[str, Any]:
    text = host.text(name)
    if text is None:
        raise ValueError(f"{name} can not be read, or is no text")
    return tomllib.loads(text)


def _texts(document: dict[str, Any], key: str, default: Sequence[str]) -> Sequence[str]:
    value = document.get(key, default)
    if isinstance(value, str) or not all(isinstance(text, str) for text in value):
        raise TypeError(f"{key} is no list of names")
    return tuple(value)

"""The container runtime's side of CDI: read the spec files on disk, resolve device ids, merge what they ask for.

This reader is deliberately not the code that writes the specs: containers of the embedded cluster get what an
independent runtime understands of the file on disk, and nothing more.

The rules are those of the Container Device Interface specification 1.1.0 and of its reference cache: one file may
name a device once, two files of equal priority that name the same device make it unresolvable, the later directory
wins over the earlier.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

from fracgpu.sim.node.errors import CdiInvalid, CdiUnresolvable

_VENDOR_CLASS = re.compile(r"[A-Za-z](?:[A-Za-z0-9._-]*[A-Za-z0-9])?")
_NAME = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9_.:-]*[A-Za-z0-9])?")
_REWRITTEN = "the plugin writes the file again when it prepares the claim"
_SPEC_FIELDS = {"cdiVersion", "kind", "annotations", "devices", "containerEdits"}
_EDIT_FIELDS = {"env", "deviceNodes", "hooks", "mounts", "intelRdt", "additionalGids", "netDevices"}


@dataclass(frozen=True, slots=True)
class Mount:
    """A bind mount: an absolute path of the host at an absolute path of the container."""

    host_path: str
    container_path: str
    options: tuple[str, ...] = ()

    @property
    def read_only(self) -> bool:
        """Tell whether the mount was asked for read-only."""
        return "ro" in self.options


@dataclass(frozen=True, slots=True)
class ContainerEdits:
    """What a set of CDI devices changes in a container, merged: environment, mounts, device nodes, hook names."""

    env: Mapping[str, str] = field(default_factory=dict)
    mounts: tuple[Mount, ...] = ()
    device_nodes: tuple[str, ...] = ()
    hooks: tuple[str, ...] = ()

    def merged_with(self, later: ContainerEdits) -> ContainerEdits:
        """Apply ``later`` after these: its variables win, its mounts replace those at the same container path."""
        mounts: dict[str, Mount] = {}
        for mount in (*self.mounts, *later.mounts):
            mounts.pop(mount.container_path, None)
            mounts[mount.container_path] = mount
        nodes = [node for node in self.device_nodes if node not in later.device_nodes]
        return ContainerEdits(
            env={**self.env, **later.env},
            mounts=tuple(sorted(mounts.values(), key=lambda mount: _depth(mount.container_path))),
            device_nodes=(*nodes, *later.device_nodes),
            hooks=(*self.hooks, *later.hooks),
        )


@dataclass(frozen=True, slots=True)
class _Spec:
    path: Path
    kind: str
    edits: ContainerEdits
    devices: Mapping[str, ContainerEdits]


def _depth(path: str) -> int:
    return len(PurePosixPath(path).parts)


class CdiRegistry:
    """Spec files of some directories, later directories having priority; read again for every resolution."""

    def __init__(self, directories: Sequence[Path]) -> None:
        self._directories = tuple(directories)

    def resolve(self, device_ids: Iterable[str]) -> ContainerEdits:
        """Return the merged edits of the devices, in the order given; a spec's common edits come once, first.

        Raises:
            CdiUnresolvable: a device is in no spec, or in two of the same directory.
            CdiInvalid: the file that names the device cannot be understood.

        """
        wanted = list(device_ids)
        specs, broken = self._read()
        edits = ContainerEdits()
        seen: set[Path] = set()
        for device_id in wanted:
            spec = self._find(device_id, specs, broken)
            if spec.path not in seen:
                seen.add(spec.path)
                edits = edits.merged_with(spec.edits)
            edits = edits.merged_with(spec.devices[device_id])
        return edits

    def _read(self) -> tuple[list[list[_Spec]], list[CdiInvalid]]:
        specs: list[list[_Spec]] = []
        broken: list[CdiInvalid] = []
        for directory in reversed(self._directories):
            level: list[_Spec] = []
            for path in sorted(directory.glob("[!.]*.json")):
                try:
                    level.append(read_spec(path))
                except CdiInvalid as error:
                    broken.append(error)
            specs.append(level)
        return specs, broken

    @staticmethod
    def _find(device_id: str, specs: list[list[_Spec]], broken: list[CdiInvalid]) -> _Spec:
        for level in specs:
            holders = [spec for spec in level if device_id in spec.devices]
            if len(holders) > 1:
                names = " and ".join(str(spec.path) for spec in holders)
                raise CdiUnresolvable(
                    f"CDI device {device_id}", f"conflict: named by {names}", remedy="remove one of the files"
                )
            if holders:
                return holders[0]
        if broken:
            raise broken[0]
        raise CdiUnresolvable(
            f"CDI device {device_id}",
            "unresolvable: no spec file names it",
            remedy="the driver's plugin writes the file when it prepares the claim; delete the pod to prepare it again",
        )


def read_spec(path: Path) -> _Spec:
    """Read one spec file.

    Raises:
        CdiInvalid: the file is not a CDI spec; strict, as runtimes are: unknown fields count.

    """
    try:
        document = json.loads(path.read_bytes())
    except (OSError, ValueError) as error:
        raise CdiInvalid(f"CDI spec {path}", f"cannot be read: {error}", remedy=_REWRITTEN) from error
    try:
        return _parse_spec(path, document)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise CdiInvalid(f"CDI spec {path}", f"is not valid: {error}", remedy=_REWRITTEN) from error


def _parse_spec(path: Path, document: dict[str, Any]) -> _Spec:
    _refuse_unknown("spec", document, _SPEC_FIELDS)
    kind = document["kind"]
    vendor, _, device_class = kind.partition("/")
    if not re.fullmatch(r"\d+\.\d+\.\d+", document["cdiVersion"]):
        raise ValueError(f"cdiVersion {document['cdiVersion']!r} is not a version")
    if not (_VENDOR_CLASS.fullmatch(vendor) and _VENDOR_CLASS.fullmatch(device_class)):
        raise ValueError(f"kind {kind!r} is not vendor/class")
    devices: dict[str, ContainerEdits] = {}
    for device in document["devices"]:
        _refuse_unknown("device", device, {"name", "annotations", "containerEdits"})
        name = device["name"]
        if not _NAME.fullmatch(name):
            raise ValueError(f"device name {name!r} is not valid")
        if f"{kind}={name}" in devices:
            raise ValueError(f"device {name!r} is named twice")
        devices[f"{kind}={name}"] = _parse_edits(device["containerEdits"])
    if not devices:
        raise ValueError("it names no device")
    return _Spec(path=path, kind=kind, edits=_parse_edits(document.get("containerEdits", {})), devices=devices)


def _parse_edits(edits: dict[str, Any]) -> ContainerEdits:
    _refuse_unknown("containerEdits", edits, _EDIT_FIELDS)
    env = dict(entry.split("=", 1) for entry in edits.get("env") or [])
    mounts = [
        Mount(mount["hostPath"], mount["containerPath"], tuple(mount.get("options") or ()))
        for mount in edits.get("mounts") or []
    ]
    nodes = tuple(node["path"] for node in edits.get("deviceNodes") or [])
    for absolute in (*nodes, *(path for mount in mounts for path in (mount.host_path, mount.container_path))):
        if not absolute.startswith("/"):
            raise ValueError(f"path {absolute!r} is not absolute")
    hooks = tuple(f"{hook['hookName']} {hook['path']}" for hook in edits.get("hooks") or [])
    return ContainerEdits().merged_with(ContainerEdits(env, tuple(mounts), nodes, hooks))


def _refuse_unknown(what: str, value: dict[str, Any], known: set[str]) -> None:
    unknown = sorted(set(value) - known)
    if unknown:
        raise ValueError(f"unknown field in {what}: {', '.join(unknown)}")

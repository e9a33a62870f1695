"""Refuses a CDI spec that a runtime would refuse, or would apply otherwise than written.

A runtime that cannot load a spec fails the container long after Prepare said yes, and two mounts at one container
path are worse: the later one wins without a word. Both are found here, before the file exists.
"""

import re
from collections import Counter
from collections.abc import Iterable
from typing import Final

from fracgpu.cdi.errors import CdiSpecInvalid
from fracgpu.cdi.spec import CdiDevice, CdiSpec, ContainerEdits

# Letter first, letter or digit last (CDI pkg/parser); a device name may also start with a digit and hold colons.
_QUALIFIER: Final = re.compile(r"[A-Za-z]([A-Za-z0-9_.-]*[A-Za-z0-9])?")
_DEVICE_NAME: Final = re.compile(r"[A-Za-z0-9]([A-Za-z0-9_.:-]*[A-Za-z0-9])?")
# Absolute, no empty component, none that is `.` or `..`. Some hundred paths are checked in every Prepare.
_NORMAL_PATH: Final = re.compile(r"/|(?:/(?!\.\.?(?:/|\Z))[^/]+)+", re.DOTALL)


def validate(spec: CdiSpec) -> None:
    """Raise CdiSpecInvalid, naming the spec and the field, unless a runtime can load and apply `spec` as written."""
    for what, value in (("vendor", spec.vendor), ("class", spec.device_class)):
        if not _QUALIFIER.fullmatch(value):
            raise CdiSpecInvalid(spec.kind, f"{what} {value!r} must start with a letter and end with a letter or digit")
    if not spec.devices:
        raise CdiSpecInvalid(spec.kind, "has no device")
    for device in spec.devices:
        _check_device(spec, device)
    _check_edits(spec.kind, spec.edits)
    every = (spec.edits, *(device.edits for device in spec.devices))
    _check_unique(spec.kind, "device name", (device.name for device in spec.devices))
    _check_unique(spec.kind, "containerPath", (mount.container_path for edits in every for mount in edits.mounts))
    _check_unique(spec.kind, "env key", (entry.partition("=")[0] for edits in every for entry in edits.env))


def _check_device(spec: CdiSpec, device: CdiDevice) -> None:
    if not _DEVICE_NAME.fullmatch(device.name):
        raise CdiSpecInvalid(
            spec.kind, f"device name {device.name!r} may hold letters, digits and _.:- between two letters or digits"
        )
    if device.edits == ContainerEdits():
        raise CdiSpecInvalid(f"{spec.kind}={device.name}", "has no edits")
    _check_edits(f"{spec.kind}={device.name}", device.edits)


def _check_edits(subject: str, edits: ContainerEdits) -> None:
    for entry in edits.env:
        key, equals, _ = entry.partition("=")
        if not key or not equals or not entry.isprintable():
            raise CdiSpecInvalid(subject, f"env {entry!r} is not printable KEY=VALUE")
    for mount in edits.mounts:
        _check_path(subject, "mount hostPath", mount.host_path)
        _check_path(subject, "mount containerPath", mount.container_path)
    for node in edits.device_nodes:
        _check_path(subject, "device node path", node.path)
        if node.host_path is not None:
            _check_path(subject, "device node hostPath", node.host_path)
    # Two allocations of one GPU name the same node, so only the nodes of one list must differ.
    _check_unique(subject, "device node path", (node.path for node in edits.device_nodes))


def _check_path(subject: str, what: str, path: str) -> None:
    if not _NORMAL_PATH.fullmatch(path) or not path.isprintable():
        raise CdiSpecInvalid(subject, f"{what} {path!r} is not a normal absolute path")


def _check_unique(subject: str, what: str, values: Iterable[str]) -> None:
    repeated = sorted(value for value, count in Counter(values).items() if count > 1)
    if repeated:
        raise CdiSpecInvalid(subject, f"{what} {repeated[0]!r} appears more than once")

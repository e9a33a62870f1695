"""The part of a CDI spec that fracgpu writes, as immutable values with one canonical encoding.

A spec is compared byte for byte when a claim is prepared again, and a container runtime reads it without us. So the
model holds only fields that we use, the encoding is deterministic, and the version is the lowest that covers them:
older runtimes refuse versions that they do not know.

Source: the CDI specification 1.1.0 (cncf-tags/container-device-interface, SPEC.md).
"""

import json
from dataclasses import dataclass
from typing import Any, Final

# 0.5.0 is the first version whose device names may start with a digit, as claim UIDs do.
_VERSION_FLOOR: Final = "0.5.0"
_VERSION_DOTTED_CLASS: Final = "0.6.0"


@dataclass(frozen=True, slots=True, kw_only=True)
class Mount:
    """A bind mount of `host_path` (absolute, as the runtime sees it) at `container_path`."""

    host_path: str
    container_path: str
    options: tuple[str, ...]

    def to_dict(self) -> dict[str, Any]:
        """Return the mount in CDI's field names."""
        return {"hostPath": self.host_path, "containerPath": self.container_path, "options": list(self.options)}


@dataclass(frozen=True, slots=True, kw_only=True)
class DeviceNode:
    """A device node at `path` in the container; `host_path` only where the host has it elsewhere.

    Type, major and minor numbers are left to the runtime, which reads them from the host's node when it starts
    the container: they may change over a reboot.
    """

    path: str
    host_path: str | None = None

    def to_dict(self) -> dict[str, Any]:
        """Return the device node in CDI's field names."""
        fields = {"path": self.path}
        if self.host_path is not None and self.host_path != self.path:
            fields["hostPath"] = self.host_path
        return fields


@dataclass(frozen=True, slots=True, kw_only=True)
class ContainerEdits:
    """What a container gets: environment (`KEY=VALUE`), device nodes, mounts. There are no hooks, on purpose."""

    env: tuple[str, ...] = ()
    device_nodes: tuple[DeviceNode, ...] = ()
    mounts: tuple[Mount, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """Return the edits in CDI's field names, empty lists left out."""
        fields = {
            "env": list(self.env),
            "deviceNodes": [node.to_dict() for node in self.device_nodes],
            "mounts": [mount.to_dict() for mount in self.mounts],
        }
        return {name: values for name, values in fields.items() if values}


@dataclass(frozen=True, slots=True, kw_only=True)
class CdiDevice:
    """One named device: its edits are applied when a container asks for `<vendor>/<class>=<name>`."""

    name: str
    edits: ContainerEdits


@dataclass(frozen=True, slots=True, kw_only=True)
class CdiSpec:
    """One spec file. `edits` are applied once for any of its devices, before the device's own."""

    vendor: str
    device_class: str
    devices: tuple[CdiDevice, ...]
    edits: ContainerEdits = ContainerEdits()

    @property
    def kind(self) -> str:
        """The part of a device id before `=`."""
        return f"{self.vendor}/{self.device_class}"

    @property
    def cdi_version(self) -> str:
        """The lowest CDI version that has every used feature."""
        return _VERSION_DOTTED_CLASS if "." in self.device_class else _VERSION_FLOOR

    def to_json(self) -> bytes:
        """Return the file content: canonical JSON (not indented: it is made in every Prepare) and a final newline."""
        fields: dict[str, Any] = {
            "cdiVersion": self.cdi_version,
            "kind": self.kind,
            "devices": [{"name": device.name, "containerEdits": device.edits.to_dict()} for device in self.devices],
        }
        if common := self.edits.to_dict():
            fields["containerEdits"] = common
        return json.dumps(fields, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode() + b"\n"

"""What a node knows of claims: by namespace and name, kept over restarts in a checkpoint.

By name and not by UID, as the kubelet keeps them: a claim of the same name with another UID is how it notices that it
still owes the release of an older one.

Source: pkg/kubelet/cm/dra/claiminfo.go of Kubernetes 1.36.3.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from fracgpu.sim.node.dra_client import ClaimRef, PreparedDevice


@dataclass(slots=True)
class ClaimInfo:
    """One claim: its drivers, the local pods that use it, and what the drivers prepared.

    ``prepared`` is not kept over a restart: the next pod whose sandbox is made has it prepared again.
    """

    ref: ClaimRef
    drivers: list[str]
    pods: set[str] = field(default_factory=set)
    devices: list[PreparedDevice] = field(default_factory=list)
    prepared: bool = False

    def devices_of(self, request: str) -> list[PreparedDevice]:
        """Return the devices of a request, of all requests for an empty one; a device that names none is in each."""
        return [one for one in self.devices if not request or not one.request_names or request in one.request_names]


class ClaimCache:
    """The claims of one node. Not safe for several threads by itself: whoever uses it holds a lock."""

    def __init__(self, checkpoint: Path) -> None:
        self._checkpoint = checkpoint
        self._claims = {(info.ref.namespace, info.ref.name): info for info in _load(checkpoint)}

    def get(self, namespace: str, name: str) -> ClaimInfo | None:
        """Return what is known of a claim."""
        return self._claims.get((namespace, name))

    def add(self, info: ClaimInfo) -> None:
        """Remember a claim."""
        self._claims[info.ref.namespace, info.ref.name] = info

    def forget(self, ref: ClaimRef) -> None:
        """Forget a claim."""
        self._claims.pop((ref.namespace, ref.name), None)

    def all(self) -> list[ClaimInfo]:
        """Return all claims."""
        return list(self._claims.values())

    def save(self) -> None:
        """Write the checkpoint."""
        entries = [
            {
                "ref": asdict(info.ref),
                "drivers": info.drivers,
                "pods": sorted(info.pods),
                "devices": [asdict(device) for device in info.devices],
            }
            for info in self._claims.values()
        ]
        self._checkpoint.parent.mkdir(parents=True, exist_ok=True)
        temporary = self._checkpoint.with_suffix(".tmp")
        temporary.write_text(json.dumps(entries, indent=1))
        temporary.rename(self._checkpoint)


def _load(checkpoint: Path) -> list[ClaimInfo]:
    try:
        entries = json.loads(checkpoint.read_bytes())
    except FileNotFoundError:
        return []
    return [_info_from(entry) for entry in entries]


def _info_from(entry: dict[str, Any]) -> ClaimInfo:
    devices = [
        PreparedDevice(**{**device, **{key: tuple(device[key]) for key in ("request_names", "cdi_device_ids")}})
        for device in entry["devices"]
    ]
    return ClaimInfo(ref=ClaimRef(**entry["ref"]), drivers=entry["drivers"], pods=set(entry["pods"]), devices=devices)

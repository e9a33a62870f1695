"""How the first version of the plugin read and wrote its checkpoint. Frozen: updates can be taken back.

Not kept up with fracgpu.kubeletplugin.prepare.checkpoint on purpose; that is what makes the comparison worth something.
"""

import hashlib
import json
from dataclasses import asdict, dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter


class State(StrEnum):
    PREPARING = "preparing"
    PREPARED = "prepared"


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    allocation_id: str
    index: int
    request: str
    pool: str
    device: str
    gpu_uuid: str
    share_id: str | None
    memory_bytes: int
    cores: int
    slots: int
    limited: bool
    admin: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    claim_uid: str
    namespace: str
    name: str
    state: State
    library_digest: str
    allocations: tuple[Record, ...]


_ENTRY = TypeAdapter(Entry)


def checksum(claims: list[Any]) -> str:
    canonical = json.dumps(claims, sort_keys=True, separators=(",", ":"))
    return "sha256:" + hashlib.sha256(canonical.encode()).hexdigest()


def read(path: Path) -> dict[str, Entry]:
    """Raises AssertionError or ValidationError where the first version refused the file."""
    document = json.loads(path.read_bytes())
    assert document["version"] == 1
    assert document["checksum"] == checksum(document["claims"])
    entries = [_ENTRY.validate_json(json.dumps(claim), strict=True) for claim in document["claims"]]
    return {entry.claim_uid: entry for entry in entries}


def write(path: Path, entries: dict[str, Entry]) -> None:
    claims: list[Any] = [asdict(entries[uid]) for uid in sorted(entries)]
    document = {"version": 1, "checksum": checksum(claims), "claims": claims}
    path.write_bytes(json.dumps(document, indent=1).encode() + b"\n")

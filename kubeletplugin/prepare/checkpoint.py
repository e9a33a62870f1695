"""What is prepared on this node, on disk, as the only truth.

Unprepare works from it alone, because the claim may be gone by then, and Prepare counts from it what a GPU has already
given away. It is read anew for every call: during a rolling update two plugins change it in turns. A checkpoint that
can not be read stops the plugin's work instead of starting from nothing, which would hand out every GPU twice.

An update can be taken back, so the plugin before this one has to read what this one writes. It knows two states and
ignores members that it does not know: what is new is such a member beside a state that is safe without it.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum
from pathlib import Path
from typing import Any, Final

from pydantic import TypeAdapter, ValidationError

from fracgpu.cdi.writer import Sync
from fracgpu.kubeletplugin.errors import CheckpointInvalid
from fracgpu.kubeletplugin.prepare.files import Files

_VERSION: Final = 1
_MODE: Final = 0o600
_REMEDY: Final = (
    "drain this node, move the file away, delete what is left in the allocations directory, restart the plugin"
)


# Stands in an entry whose state reads "preparing" for a plugin that does not know it: one that counts and may be taken
# back or prepared again, which is right for it.
_RELEASING: Final = "releasing"


class EntryState(StrEnum):
    """How far a claim is. Each of them counts against the GPU.

    PREPARING: nothing has been handed to the kubelet yet. RELEASING: the kubelet has taken the claim back, but
    processes still use its files; it has no CDI spec any more.
    """

    PREPARING = "preparing"
    PREPARED = "prepared"
    RELEASING = "releasing"


@dataclass(frozen=True, slots=True, kw_only=True)
class AllocationRecord:
    """One allocation on one GPU: memory in bytes, cores in percent of a GPU, slots in sharers.

    `limited` is False for a container that may use the whole card; `admin` marks admin access, which is not counted.
    `index` is the position among the claim's allocations of ours.
    """

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
class ClaimEntry:
    """One claim on this node. `library_digest` names the interceptor that its CDI spec mounts."""

    claim_uid: str
    namespace: str
    name: str
    state: EntryState
    library_digest: str
    allocations: tuple[AllocationRecord, ...]

    @property
    def handed_out(self) -> bool:
        """Whether containers may have the allocations, so that what they are may not change."""
        return self.state is not EntryState.PREPARING

    @property
    def gpu_uuids(self) -> tuple[str, ...]:
        """UUIDs of the claim's GPUs, each once, in the order of its allocations."""
        return tuple(dict.fromkeys(record.gpu_uuid for record in self.allocations))


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """All claims of this node by UID."""

    entries: Mapping[str, ClaimEntry] = field(default_factory=dict)

    def with_entry(self, entry: ClaimEntry) -> "Checkpoint":
        """Return a checkpoint with `entry` added or replaced."""
        return Checkpoint({**self.entries, entry.claim_uid: entry})

    def without(self, claim_uid: str) -> "Checkpoint":
        """Return a checkpoint without that claim."""
        return Checkpoint({uid: entry for uid, entry in self.entries.items() if uid != claim_uid})


class CheckpointStore:
    """Reads and replaces the checkpoint file. Callers hold the node lock."""

    def __init__(self, path: Path, files: Files) -> None:
        self.path = path
        self._files = files
        # What was decoded last, by the bytes that it was decoded from: the file is read each time, and mostly the same.
        self._decoded: tuple[bytes, Checkpoint] = (b"", Checkpoint())

    def load(self) -> Checkpoint:
        """Return the checkpoint; an absent file is an empty one.

        Raises CheckpointInvalid, leaving the file alone, when it is unreadable, cut short, altered or newer than this
        plugin.
        """
        try:
            content = self.path.read_bytes()
        except FileNotFoundError:
            return Checkpoint()
        except OSError as error:
            raise self._invalid(f"can not be read: {error.strerror}") from error
        known, checkpoint = self._decoded
        if content != known or not content:
            checkpoint = self._decode(content)
            self._decoded = (content, checkpoint)
        return checkpoint

    def save(self, checkpoint: Checkpoint, *, sync: Sync = Sync.NAME) -> None:
        """Replace the file by `checkpoint`, atomically, so that it survives a power cut as `sync` says.

        Sync.NOTHING would be too little: a file in pieces stops the node.
        """
        claims = [_canonical(_encode(checkpoint.entries[uid])) for uid in sorted(checkpoint.entries)]
        head = f'{{"version":{_VERSION},"checksum":"{_checksum(claims)}","claims":['
        content = "\n".join((head, ",\n".join(claims), "]}\n")).encode()
        self._files.write(self.path, content, mode=_MODE, sync=sync)

    def _decode(self, content: bytes) -> Checkpoint:
        try:
            document = json.loads(content)
        except ValueError as error:
            raise self._invalid("is cut short or no JSON") from error
        if not isinstance(document, dict) or not isinstance(document.get("version"), int):
            raise self._invalid("states no version")
        version = document["version"]
        if version > _VERSION:
            raise CheckpointInvalid(
                f"checkpoint {self.path}",
                f"has version {version}, this plugin reads up to {_VERSION}",
                remedy="run the newer fracgpu that wrote it, or drain the node before going back",
            )
        claims = document.get("claims")
        if version != _VERSION or not isinstance(claims, list):
            raise self._invalid(f"has version {version} and no claims of that version")
        if document.get("checksum") != _checksum([_canonical(claim) for claim in claims]):
            raise self._invalid("does not match its checksum")
        try:
            entries = [_decode_entry(claim) for claim in claims]
        except ValidationError as error:
            first = error.errors(include_url=False)[0]
            raise self._invalid(f"field {'.'.join(map(str, first['loc']))}: {first['msg']}") from error
        return Checkpoint({entry.claim_uid: entry for entry in entries})

    def _invalid(self, what: str) -> CheckpointInvalid:
        return CheckpointInvalid(f"checkpoint {self.path}", what, remedy=_REMEDY)


# A field that a later version of this plugin adds is ignored by this one: an update can be taken back.
_ENTRY: Final = TypeAdapter(ClaimEntry)


def _encode(entry: ClaimEntry) -> dict[str, Any]:
    if entry.state is not EntryState.RELEASING:
        return _plain(entry)
    return {**_plain(replace(entry, state=EntryState.PREPARING)), _RELEASING: True}


def _plain(entry: ClaimEntry) -> dict[str, Any]:
    plain: dict[str, Any] = _ENTRY.dump_python(entry, mode="json")
    return plain


def _decode_entry(claim: Any) -> ClaimEntry:
    """Return the entry in `claim`. Raises ValidationError."""
    entry = _ENTRY.validate_json(json.dumps(claim), strict=True)
    # A plugin that does not know the member drops it when it writes the entry, so it never stands beside "prepared".
    if entry.state is EntryState.PREPARING and claim.get(_RELEASING) is True:
        return replace(entry, state=EntryState.RELEASING)
    return entry


def _canonical(claim: Any) -> str:
    return json.dumps(claim, sort_keys=True, separators=(",", ":"))


def _checksum(claims: list[str]) -> str:
    """Return the checksum of a list of claims, each in its canonical form: that of the list's canonical form."""
    return "sha256:" + hashlib.sha256(f"[{','.join(claims)}]".encode()).hexdigest()

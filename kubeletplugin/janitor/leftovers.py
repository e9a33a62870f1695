"""Finds what lies on the node without anything that names it. Reads only; the janitor decides and removes.

By the order in which Prepare and Unprepare work there is no such thing after a crash: the checkpoint entry comes first
and goes last. It comes about by other ways: a checkpoint that was moved away, a rollback that failed on a full disk, an
update of the plugin.
"""

from collections.abc import Collection, Iterable
from pathlib import Path
from typing import Final

from fracgpu.driver.names import CDI_CLASS, CDI_VENDOR
from fracgpu.kubeletplugin.options import PluginOptions
from fracgpu.kubeletplugin.prepare.checkpoint import Checkpoint

_SPEC_PREFIX: Final = f"{CDI_VENDOR}-{CDI_CLASS}_"
# What CDI runtimes read.
_SPEC_SUFFIXES: Final = (".json", ".yaml")


def spec_temporaries(options: PluginOptions) -> list[Path]:
    """Return what killed writers of our CDI specs left. Under the node lock nobody is writing one."""
    return [path for path in _children(options.cdi_dir) if _is_temporary(path.name)]


def nameless_specs(options: PluginOptions, checkpoint: Checkpoint) -> list[tuple[str, Path]]:
    """Return the CDI specs of ours whose claim has no entry, with the claim's UID."""
    specs = [(_claim_uid(path.name), path) for path in _children(options.cdi_dir)]
    return [(uid, path) for uid, path in specs if uid is not None and uid not in checkpoint.entries]


def nameless_allocations(options: PluginOptions, checkpoint: Checkpoint) -> list[Path]:
    """Return the allocation directories that no entry names."""
    known = {record.allocation_id for entry in checkpoint.entries.values() for record in entry.allocations}
    return [path for path in _children(options.run_dir / "allocations") if path.name not in known]


def unnamed_digests(
    options: PluginOptions, checkpoint: Checkpoint, stored: Iterable[str], own_digest: str
) -> Collection[str]:
    """Return the stored interceptors that neither an entry nor a CDI spec of anybody names, `own_digest` excepted.

    Specs are searched as bytes, whatever their format and whoever wrote them. Raises OSError when one can not be read:
    it may name any of them.
    """
    named = {own_digest} | {entry.library_digest for entry in checkpoint.entries.values()}
    candidates = {digest for digest in stored if digest not in named}
    if candidates:
        for path in _children(options.cdi_dir):
            if path.suffix in _SPEC_SUFFIXES and path.is_file():
                content = _content(path)
                candidates = {digest for digest in candidates if digest.encode() not in content}
    return candidates


def _children(directory: Path) -> list[Path]:
    try:
        return sorted(directory.iterdir())
    except FileNotFoundError:
        return []


def _content(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except FileNotFoundError:
        # Another driver has just removed it.
        return b""


def _claim_uid(name: str) -> str | None:
    if not (name.startswith(_SPEC_PREFIX) and name.endswith(".json")):
        return None
    return name.removeprefix(_SPEC_PREFIX).removesuffix(".json")


def _is_temporary(name: str) -> bool:
    return name.startswith(f".{_SPEC_PREFIX}") and name.endswith(".tmp")

"""Takes away what nothing on the node needs any more.

Four kinds: claims that the kubelet took back while processes still used them; claims whose Unprepare never came,
because the pod went while kubelet or plugin were down; interceptors of former versions; and what nothing names. Each is
harmless where it lies and harmful to remove too early, so the janitor removes only what it has seen unused for a while,
what no process has locked or mounted, and nothing at all while it can not read the checkpoint.
"""

import logging
import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, Final

from fracgpu.cdi.writer import temporary_path
from fracgpu.driver.errors import FracgpuError
from fracgpu.driver.names import DRIVER_NAME
from fracgpu.kubeletplugin.api.cluster import ClusterApi
from fracgpu.kubeletplugin.background import Wait
from fracgpu.kubeletplugin.errors import NotFound
from fracgpu.kubeletplugin.janitor.leftovers import (
    nameless_allocations,
    nameless_specs,
    spec_temporaries,
    unnamed_digests,
)
from fracgpu.kubeletplugin.janitor.mounts import PROC, mounted_by_a_process
from fracgpu.kubeletplugin.janitor.patience import Patience
from fracgpu.kubeletplugin.options import PluginOptions
from fracgpu.kubeletplugin.prepare.apply import Applier
from fracgpu.kubeletplugin.prepare.checkpoint import Checkpoint, CheckpointStore, ClaimEntry, EntryState
from fracgpu.kubeletplugin.prepare.edits import STATE_FILE
from fracgpu.kubeletplugin.prepare.files import Files
from fracgpu.kubeletplugin.prepare.interceptor_store import InterceptorStore
from fracgpu.kubeletplugin.prepare.node_lock import node_lock
from fracgpu.kubeletplugin.prepare.preparer import CHECKPOINT_FILE, LIBRARY_DIRECTORY, LOCK_FILE
from fracgpu.kubeletplugin.prepare.state_locks import count_users

GRACE_SECONDS: Final = 300.0
"""How long a thing has to look unused before it goes; also the pause between two full sweeps."""

_LOG: Final = logging.getLogger(__name__)
# Between two looks at claims that wait for their last process. Costs one read of the checkpoint.
_LOOK_SECONDS: Final = 10.0
_LOCK_SECONDS: Final = 10.0
_API_SECONDS: Final = 5.0
Removed = Callable[[str, int], None]
"""Is told of removals: their kind (claim, interceptor, allocation, spec or temporary) and how many."""


def _nobody(kind: str, count: int) -> None:
    del kind, count


class Janitor:
    """Sweeps one node. One thread calls `run`; another plugin on the node may have a janitor of its own.

    `library_digest` names the interceptor of this plugin, which stays. `proc` is where the host's processes are seen.
    """

    def __init__(
        self,
        *,
        options: PluginOptions,
        cluster: ClusterApi,
        library_digest: str,
        files: Files | None = None,
        proc: Path = PROC,
        grace_seconds: float = GRACE_SECONDS,
        clock: Callable[[], float] = time.monotonic,
        removed: Removed = _nobody,
    ) -> None:
        self._options = options
        self._cluster = cluster
        self._own_digest = library_digest
        self._files = files or Files()
        self._proc = proc
        self._grace_seconds = grace_seconds
        self._clock = clock
        self._removed = removed
        self._patience = Patience(grace_seconds, clock)
        self._checkpoints = CheckpointStore(options.state_dir / CHECKPOINT_FILE, self._files)
        self._interceptors = InterceptorStore(options.state_dir / LIBRARY_DIRECTORY, self._files)
        self._applier = Applier(options, self._checkpoints, self._files)
        self._trouble = ""

    def run(self, wait: Wait) -> None:
        """Sweep at once and then from time to time, and finish releases in between, until `wait` says stop."""
        next_sweep = self._clock()
        while True:
            try:
                if self._clock() >= next_sweep:
                    next_sweep = self._clock() + self._grace_seconds
                    self.sweep()
                else:
                    self.finish_releases()
                self._trouble = ""
            except (FracgpuError, OSError) as error:
                self._report(error)
            except Exception:
                _LOG.exception("sweep failed")
            if wait(_LOOK_SECONDS):
                return

    def finish_releases(self) -> int:
        """Take back the claims that only waited for their last process, and return how many.

        Raises CheckpointInvalid, NodeLockTimeout or OSError.
        """
        # Looked at without the lock: most of the time there is none.
        if not any(entry.state is EntryState.RELEASING for entry in self._checkpoints.load().entries.values()):
            return 0
        with self._locked():
            before = self._checkpoints.load()
            finished = len(before.entries) - len(self._applier.finish_releases(before).entries)
        return self._count("claim", finished)

    def sweep(self) -> int:
        """Remove what has been unused for long enough, and return how many things that were.

        The first sweep only remembers, except for claims whose last process has ended and for temporary files. Raises
        CheckpointInvalid, NodeLockTimeout or OSError; then nothing more is removed.
        """
        self._patience.look()
        finished = self.finish_releases()
        abandoned = self._abandoned(self._checkpoints.load())
        with self._locked():
            checkpoint = self._checkpoints.load()
            taken_back = self._count("claim", self._take_back(abandoned, checkpoint))
            # What was just taken back is named by nothing any more, and has nothing left.
            checkpoint = self._checkpoints.load()
            return (
                finished
                + taken_back
                + self._attempt("spec", lambda: self._remove_specs(checkpoint))
                + self._attempt("allocation", lambda: self._remove_allocations(checkpoint))
                + self._attempt("interceptor", lambda: self._remove_interceptors(checkpoint))
                + self._attempt("temporary", self._remove_temporaries)
            )

    def _abandoned(self, checkpoint: Checkpoint) -> list[ClaimEntry]:
        """Return the entries that the API server has said for long enough are not for this node any more."""
        gone = [
            entry
            for entry in checkpoint.entries.values()
            if entry.state is not EntryState.RELEASING and self._is_gone(entry)
        ]
        return [entry for entry in gone if self._patience.unused(("claim", entry.claim_uid))]

    def _is_gone(self, entry: ClaimEntry) -> bool:
        try:
            raw = self._cluster.get_claim(entry.namespace, entry.name, timeout_seconds=_API_SECONDS)
        except NotFound:
            return True
        except FracgpuError:
            # No answer is no news.
            return False
        return not _is_allocated_here(raw, entry, self._options.node_name)

    def _take_back(self, abandoned: Iterable[ClaimEntry], checkpoint: Checkpoint) -> int:
        count = 0
        for entry in abandoned:
            # Asked again under the lock: allocated anew and prepared meanwhile, it would look just the same here.
            if checkpoint.entries.get(entry.claim_uid) != entry or not self._is_gone(entry):
                continue
            if self._in_use(self._directories(entry), [f"/allocations/{entry.claim_uid}-"]):
                continue
            checkpoint = self._applier.release(entry, checkpoint)
            count += 1
            claim = f"{entry.namespace}/{entry.name}"
            _LOG.warning(
                "claim released: nobody asked for it, but it is gone from the API server",
                extra={"claim": claim, "uid": entry.claim_uid, "gpu": ",".join(entry.gpu_uuids)},
            )
        return count

    def _remove_specs(self, checkpoint: Checkpoint) -> int:
        count = 0
        for uid, path in nameless_specs(self._options, checkpoint):
            directories = [one for one in self._allocations() if one.name.startswith(f"{uid}-")]
            if self._patience.unused(path) and not self._in_use(directories, [f"/allocations/{uid}-"]):
                count += self._files.remove(path)
                _LOG.warning("CDI spec removed that no claim names", extra={"path": str(path)})
        return count

    def _remove_allocations(self, checkpoint: Checkpoint) -> int:
        count = 0
        for path in nameless_allocations(self._options, checkpoint):
            if self._patience.unused(path) and not self._in_use([path], [f"/allocations/{path.name}/"]):
                count += self._files.remove_directory(path)
                _LOG.warning("allocation removed that no claim names", extra={"path": str(path)})
        return count

    def _remove_interceptors(self, checkpoint: Checkpoint) -> int:
        count = 0
        for digest in sorted(
            unnamed_digests(self._options, checkpoint, self._interceptors.digests(), self._own_digest)
        ):
            if self._patience.unused(("interceptor", digest)) and not self._in_use([], [f"/{digest}/"]):
                count += self._interceptors.remove(digest)
                _LOG.info("interceptor removed that no claim names", extra={"digest": digest})
        return count

    def _remove_temporaries(self) -> int:
        files = [*spec_temporaries(self._options), temporary_path(self._checkpoints.path)]
        return sum(self._files.remove(path) for path in files) + self._interceptors.remove_temporaries()

    def _in_use(self, directories: Iterable[Path], fragments: Iterable[str]) -> bool:
        try:
            if any(count_users(directory / STATE_FILE) for directory in directories):
                return True
            return mounted_by_a_process(fragments, self._proc)
        except OSError as error:
            self._report(error)
            return True

    def _allocations(self) -> list[Path]:
        directory = self._options.run_dir / "allocations"
        return list(directory.iterdir()) if directory.is_dir() else []

    def _directories(self, entry: ClaimEntry) -> list[Path]:
        return [self._options.run_dir / "allocations" / record.allocation_id for record in entry.allocations]

    def _attempt(self, kind: str, remove: Callable[[], int]) -> int:
        """Remove things of one kind; one that can not be removed must not save those of the other kinds."""
        try:
            return self._count(kind, remove())
        except OSError as error:
            self._report(error)
            return 0

    def _count(self, kind: str, count: int) -> int:
        if count:
            self._removed(kind, count)
        return count

    def _report(self, error: Exception) -> None:
        """Log what keeps the janitor from its work, once for as long as it lasts."""
        if str(error) != self._trouble:
            self._trouble = str(error)
            _LOG.warning("not everything could be swept", extra={"error": self._trouble})

    def _locked(self) -> AbstractContextManager[None]:
        return node_lock(self._options.state_dir / LOCK_FILE, _LOCK_SECONDS)


def _is_allocated_here(raw: Mapping[str, Any], entry: ClaimEntry, node_name: str) -> bool:
    """Whether the claim is the one of `entry` and has a device of ours on this node; what can not be read is."""
    try:
        if raw["metadata"]["uid"] != entry.claim_uid:
            return False
        allocation = raw.get("status", {}).get("allocation") or {}
        results = allocation.get("devices", {}).get("results") or []
        return any(result["driver"] == DRIVER_NAME and result["pool"] == node_name for result in results)
    except (KeyError, TypeError, AttributeError):
        return True

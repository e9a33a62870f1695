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
from typing import Any, Final, TypeVar

from fracgpu.cdi.writer import temporary_path
from fracgpu.driver.errors import FracgpuError
from fracgpu.driver.kube.errors import NotFound
from fracgpu.driver.names import DRIVER_NAME
from fracgpu.driver.process.background import Wait
from fracgpu.kubeletplugin.api.cluster import ClusterApi
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
from fracgpu.kubeletplugin.prepare.deadline import Deadline
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
# For all questions of one sweep together: while they are asked no release is finished.
_ASKING_SECONDS: Final = 30.0
# For taking claims back under the node lock, the API server asked once more included: the kubelet's calls wait for it.
_LOCKED_SECONDS: Final = 5.0
_Thing = TypeVar("_Thing")
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
            asking = Deadline(_LOCKED_SECONDS, clock=self._clock)
            taken_back = self._attempt("claim", lambda: abandoned, lambda entry: self._take_back(entry, asking))
            # What was just taken back is named by nothing any more, and has nothing left.
            checkpoint = self._checkpoints.load()
            return (
                finished
                + taken_back
                + self._attempt("spec", lambda: nameless_specs(self._options, checkpoint), self._remove_spec)
                + self._attempt(
                    "allocation", lambda: nameless_allocations(self._options, checkpoint), self._remove_allocation
                )
                + self._attempt("interceptor", lambda: self._unnamed_digests(checkpoint), self._remove_interceptor)
                + self._attempt("temporary", self._temporaries, self._files.remove)
                + self._attempt("temporary", lambda: [self._interceptors], InterceptorStore.remove_temporaries)
            )

    def _abandoned(self, checkpoint: Checkpoint) -> list[ClaimEntry]:
        """Return the entries that the API server has said for long enough are not for this node any more."""
        asking = Deadline(_ASKING_SECONDS, clock=self._clock)
        gone = [
            entry
            for entry in checkpoint.entries.values()
            if entry.state is not EntryState.RELEASING and self._is_gone(entry, asking)
        ]
        return [entry for entry in gone if self._patience.unused(("claim", entry.claim_uid))]

    def _is_gone(self, entry: ClaimEntry, asking: Deadline) -> bool:
        timeout_seconds = min(_API_SECONDS, asking.remaining_seconds)
        if not timeout_seconds:
            return False
        try:
            raw = self._cluster.get_claim(entry.namespace, entry.name, timeout_seconds=timeout_seconds)
        except NotFound:
            return True
        except FracgpuError:
            # No answer is no news.
            return False
        return not _is_allocated_here(raw, entry, self._options.node_name)

    def _take_back(self, entry: ClaimEntry, asking: Deadline) -> int:
        checkpoint = self._checkpoints.load()
        # Asked again under the lock: allocated anew and prepared meanwhile, it would look just the same here. One that
        # is not asked in time is left to the next sweep.
        if checkpoint.entries.get(entry.claim_uid) != entry or not self._is_gone(entry, asking):
            return 0
        if self._in_use(self._directories(entry), [f"/allocations/{entry.claim_uid}-"]):
            return 0
        self._applier.release(entry, checkpoint)
        claim = f"{entry.namespace}/{entry.name}"
        _LOG.warning(
            "claim released: nobody asked for it, but it is gone from the API server",
            extra={"claim": claim, "uid": entry.claim_uid, "gpu": ",".join(entry.gpu_uuids)},
        )
        return 1

    def _remove_spec(self, spec: tuple[str, Path]) -> int:
        uid, path = spec
        directories = [one for one in self._allocations() if one.name.startswith(f"{uid}-")]
        if not self._patience.unused(path) or self._in_use(directories, [f"/allocations/{uid}-"]):
            return 0
        removed = self._files.remove(path)
        _LOG.warning("CDI spec removed that no claim names", extra={"uid": uid, "path": str(path)})
        return removed

    def _remove_allocation(self, path: Path) -> int:
        if not self._patience.unused(path) or self._in_use([path], [f"/allocations/{path.name}/"]):
            return 0
        removed = self._files.remove_directory(path)
        fields = {"allocation_id": path.name, "path": str(path)}
        _LOG.warning("allocation removed that no claim names", extra=fields)
        return removed

    def _unnamed_digests(self, checkpoint: Checkpoint) -> list[str]:
        return sorted(unnamed_digests(self._options, checkpoint, self._interceptors.digests(), self._own_digest))

    def _remove_interceptor(self, digest: str) -> int:
        if not self._patience.unused(("interceptor", digest)) or self._in_use([], [f"/{digest}/"]):
            return 0
        removed = self._interceptors.remove(digest)
        _LOG.info("interceptor removed that no claim names", extra={"digest": digest})
        return removed

    def _temporaries(self) -> list[Path]:
        return [*spec_temporaries(self._options), temporary_path(self._checkpoints.path)]

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

    def _attempt(self, kind: str, find: Callable[[], Iterable[_Thing]], remove: Callable[[_Thing], int]) -> int:
        """Remove things of one kind; one that can not be removed must not save the others."""
        count = 0
        try:
            for thing in find():
                try:
                    count += remove(thing)
                except OSError as error:
                    self._report(error)
        except OSError as error:
            self._report(error)
        return self._count(kind, count)

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

"""The driver's place and files, looked for again only when something changed.

Every Prepare needs them, and looking takes milliseconds: some six hundred lookups in a dozen directories, and a header
per library. The answer depends on nothing but the directories in which names were looked up, the files that were
found, and the version of the kernel module, so it holds while all of those are what they were. A driver that is
replaced under us is seen, because a name can not lead elsewhere without a directory on its way having changed.
"""

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from threading import Lock
from typing import Final, Generic, TypeVar

from fracgpu.cdi.discovery import DriverFiles, discover_driver
from fracgpu.cdi.roots import DriverRoot, find_driver_root, kernel_module_version

_Answer = TypeVar("_Answer")
_Key = TypeVar("_Key")
_Signature = tuple[tuple[int, int, int, int, int] | None, ...]

_PROC: Final = Path("/proc")
# File systems stamp changes with the time of the last timer tick, or of the last second. What changed so shortly before
# it was looked at could change again and keep its time, so it is looked at again.
_SETTLED_NS: Final = 2_000_000_000


@dataclass(frozen=True, slots=True)
class _Remembered(Generic[_Answer]):
    """An answer, and what it depends on as that was when it was found."""

    answer: _Answer
    watched: tuple[Path, ...]
    signature: _Signature


class DriverCache:
    """find_driver_root and discover_driver, with memory. Safe to use from several threads."""

    def __init__(self, *, proc: Path = _PROC, clock_ns: Callable[[], int] = time.time_ns) -> None:
        """Nothing is looked for yet. `clock_ns` is the clock of the file systems' times."""
        self._proc = proc
        self._clock_ns = clock_ns
        self._lock = Lock()
        self._files: dict[Path, _Remembered[DriverFiles]] = {}
        self._roots: dict[tuple[Path, str | None], _Remembered[DriverRoot | None]] = {}

    def discover(self, root: Path) -> DriverFiles:
        """Return what discover_driver returns for `root` now. Raises what it raises."""
        return self._answer(self._files, root, lambda trail: discover_driver(root, trail=trail))

    def find(self, host_root: Path) -> DriverRoot | None:
        """Return what find_driver_root returns for `host_root` now. Raises what it raises."""
        key = (host_root, kernel_module_version(self._proc))
        return self._answer(self._roots, key, lambda trail: find_driver_root(host_root, proc=self._proc, trail=trail))

    def _answer(
        self, known: dict[_Key, _Remembered[_Answer]], key: _Key, look: Callable[[set[Path]], _Answer]
    ) -> _Answer:
        with self._lock:
            remembered = known.pop(key, None)
            if remembered is not None and _signature(remembered.watched) == remembered.signature:
                known[key] = remembered
                return remembered.answer
            started_ns = self._clock_ns()
            trail: set[Path] = set()
            answer = look(trail)
            watched = tuple(trail)
            signature = _signature(watched)
            if _newest_change_ns(signature) < started_ns - _SETTLED_NS:
                known[key] = _Remembered(answer, watched, signature)
            return answer


def _signature(paths: Iterable[Path]) -> _Signature:
    """Return what tells whether one of `paths` was changed or replaced; None stands for one that is not there."""
    found: list[tuple[int, int, int, int, int] | None] = []
    for path in paths:
        try:
            status = path.stat()
        except OSError:
            found.append(None)
            continue
        found.append((status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns))
    return tuple(found)


def _newest_change_ns(signature: _Signature) -> int:
    return max((max(stamp[3], stamp[4]) for stamp in signature if stamp is not None), default=0)

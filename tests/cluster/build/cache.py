"""A directory of finished artefacts, safe against killed builds and against other sessions on the same machine.

    ROOT/<artefact>/<key>/       finished: it got this name by a rename, with everything in it
    ROOT/<artefact>/.new-*/      being made, or left by a build that was killed
    ROOT/<artefact>/.lock        held by whoever builds or removes here

Whoever uses an artefact keeps a shared lock (flock(2)) on its directory until the process ends, however it ends; what
is locked is not removed.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

CACHE_ENV: Final = "FRACGPU_E2E_CACHE"
KEPT: Final = 2
_UNFINISHED: Final = ".new-"
_LOCK: Final = ".lock"

Make = Callable[[Path], None]
"""Makes an artefact in the empty directory that it is given; whatever it raises, nothing is kept."""

Report = Callable[[str], None]
"""Takes one line of what is going on."""


def cache_root() -> Path:
    """Return the directory of everything that the e2e tier keeps between runs: `$FRACGPU_E2E_CACHE`, or below XDG's."""
    if chosen := os.environ.get(CACHE_ENV):
        return Path(chosen).absolute()
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base).absolute() / "fracgpu" / "e2e"


@dataclass
class Cache:
    """Finished artefacts below a directory; see the module. Keep it as long as their paths are used."""

    root: Path
    report: Report = lambda _line: None
    _used: dict[Path, int] = field(default_factory=dict)

    def get(self, artefact: str, key: str, make: Make) -> Path:
        """Return the directory of an artefact, made now unless one with this key is there.

        Raises:
            Exception: whatever `make` raises
            OSError: the cache cannot be written

        """
        directory = self.root / artefact
        directory.mkdir(parents=True, exist_ok=True)
        path = directory / key
        with self._locked(directory):
            _remove_unfinished(directory)
            if path.is_dir():
                self.report(f"{artefact}: as built before ({_megabytes(path)} MB)")
            else:
                self._make(artefact, path, make)
            self._use(path)
            _remove_old(directory)
        return path

    def _make(self, artefact: str, path: Path, make: Make) -> None:
        self.report(f"{artefact}: being built")
        began = time.monotonic()
        unfinished = Path(tempfile.mkdtemp(prefix=_UNFINISHED, dir=path.parent))
        try:
            make(unfinished)
            unfinished.chmod(0o755)
            unfinished.rename(path)
        finally:
            shutil.rmtree(unfinished, ignore_errors=True)
        self.report(f"{artefact}: built in {time.monotonic() - began:.1f} s ({_megabytes(path)} MB)")

    def _use(self, path: Path) -> None:
        """Keep an artefact from being removed, and remember when it was wanted last."""
        if path not in self._used:
            self._used[path] = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            fcntl.flock(self._used[path], fcntl.LOCK_SH)
        os.utime(path)

    @contextlib.contextmanager
    def _locked(self, directory: Path) -> Iterator[None]:
        with (directory / _LOCK).open("wb") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                self.report(f"{directory.name}: waiting for another session that is building it")
                fcntl.flock(lock, fcntl.LOCK_EX)
            yield


def _remove_unfinished(directory: Path) -> None:
    """Remove what killed builds have left. Only to be called with the lock, when nobody builds."""
    for left in directory.glob(f"{_UNFINISHED}*"):
        # A program that outlives its build for a moment may still write there; what stays now goes next time.
        shutil.rmtree(left, ignore_errors=True)


def _remove_old(directory: Path) -> None:
    """Remove all keys but the ones wanted last and those in use."""
    finished = [path for path in directory.iterdir() if not path.name.startswith(".")]
    for path in sorted(finished, key=lambda path: path.stat().st_mtime_ns, reverse=True)[KEPT:]:
        descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            # Half removed it must not be found under its name.
            going = path.rename(path.with_name(f"{_UNFINISHED}{path.name}"))
            shutil.rmtree(going)
        except BlockingIOError:
            continue
        finally:
            os.close(descriptor)


def _megabytes(path: Path) -> str:
    size = sum(entry.lstat().st_size for entry in path.rglob("*") if not entry.is_symlink())
    return f"{size / 1e6:.1f}"

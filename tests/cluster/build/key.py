"""What an artefact is made of, as one word: the same inputs give the same key, any other ones another key."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from pathlib import Path
from typing import Final, Self

_LENGTH: Final = 20


class Inputs:
    """Collects inputs. Each has a name, so that a text cannot pass for another that stands elsewhere."""

    def __init__(self) -> None:
        self._digest = hashlib.sha256()

    def text(self, name: str, value: str) -> Self:
        """Add a text: a version, a flag, the key of another artefact."""
        return self._add(name, value.encode())

    def file(self, path: Path) -> Self:
        """Add a file: its name without directories, and its content.

        Raises:
            OSError: it cannot be read

        """
        return self._add(path.name, path.read_bytes())

    def files(self, root: Path, paths: Iterable[Path]) -> Self:
        """Add files below a directory by their path from there: content, and whether they can be executed.

        Raises:
            OSError: one cannot be read

        """
        for path in sorted(paths):
            executable = "x" if path.stat().st_mode & 0o111 else "-"
            self._add(f"{executable} {path.relative_to(root)}", path.read_bytes())
        return self

    def key(self) -> str:
        """Return the key of what was added so far."""
        return self._digest.hexdigest()[:_LENGTH]

    def _add(self, name: str, value: bytes) -> Self:
        # Lengths in front, so that no two lists of inputs run together to the same bytes.
        head = f"{len(name.encode())}:{name}:{len(value)}:"
        self._digest.update(head.encode() + value)
        return self

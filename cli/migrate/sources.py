"""Where manifests come from: files, directories, standard input."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Final

from fracgpu.cli.errors import UsageWrong
from fracgpu.cli.migrate.options import STANDARD_STREAM
from fracgpu.driver.errors import FracgpuError

_SUFFIXES: Final = (".yaml", ".yml", ".json")
# An object of the API has 1.5 MiB at most; this is a long list of large ones.
_MAX_BYTES: Final = 16 << 20


class ManifestUnreadable(FracgpuError):
    """A manifest can not be read, or is no YAML. Nothing is written then: what is missing in it would not be seen."""


@dataclass(frozen=True, slots=True)
class Source:
    """The text of one file, and what to call it in messages."""

    name: str
    text: str


def read_sources(names: Sequence[str], *, recursive: bool, output: str = STANDARD_STREAM) -> list[Source]:
    """Return the texts of files, directories and `-`, in their order, those of a directory by name.

    The output file is no input when it lies in a directory that is: it would be there from the last time. Raises
    ManifestUnreadable, and UsageWrong for a name that leads nowhere.
    """
    sources: list[Source] = []
    for name in names:
        if name == STANDARD_STREAM:
            sources.append(Source("standard input", _decode("standard input", _limited("standard input", _stdin()))))
            continue
        sources += [Source(str(path), _decode(str(path), _read(path))) for path in _paths(name, recursive, output)]
    return sources


def _paths(name: str, recursive: bool, output: str) -> Iterator[Path]:
    path = Path(name)
    if not path.is_dir():
        if not path.exists():
            raise UsageWrong(name, "is not there", remedy="name a file, a directory or -")
        yield path
        return
    found = sorted(path.rglob("*") if recursive else path.iterdir())
    files = [item for item in found if item.suffix in _SUFFIXES and item.is_file() and not _is_output(item, output)]
    if not files:
        raise UsageWrong(name, f"has no file that ends in {', '.join(_SUFFIXES)}", remedy="name another, or give -R")
    yield from files


def _is_output(path: Path, output: str) -> bool:
    return output != STANDARD_STREAM and Path(output).exists() and path.samefile(output)


def _stdin() -> BinaryIO:
    if sys.stdin is None:
        raise ManifestUnreadable("standard input", "is closed", remedy="give a file")
    return sys.stdin.buffer


def _read(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            return _limited(str(path), file)
    except OSError as error:
        remedy = "name a file that you may read"
        raise ManifestUnreadable(str(path), f"can not be read: {error.strerror}", remedy=remedy) from error


def _limited(name: str, stream: BinaryIO) -> bytes:
    content = stream.read(_MAX_BYTES + 1)
    if len(content) > _MAX_BYTES:
        raise ManifestUnreadable(name, f"has more than {_MAX_BYTES >> 20} MiB", remedy="split it into smaller files")
    return content


def _decode(name: str, content: bytes) -> str:
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ManifestUnreadable(name, f"is not UTF-8 at byte {error.start}", remedy="convert it with iconv") from error

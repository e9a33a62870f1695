"""Reads the SONAME of a shared library.

A library must appear in the container under the name that other libraries ask for. Usually a link beside the file
says that name, but links come from ldconfig, which not every driver root has seen; the file itself always knows.

Source: System V ABI, ELF-64 object file format; elf(5).
"""

import os
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from fracgpu.cdi.errors import ElfInvalid

_HEADER: Final = struct.Struct("<16sHHIQQQIHHHHHH")
_PROGRAM_HEADER: Final = struct.Struct("<IIQQQQQQ")
_DYNAMIC_ENTRY: Final = struct.Struct("<qQ")
_IDENT_64_LITTLE: Final = b"\x7fELF\x02\x01"
_IDENT_32: Final = b"\x7fELF\x01"
_PT_LOAD: Final = 1
_PT_DYNAMIC: Final = 2
_DT_NULL: Final = 0
_DT_STRTAB: Final = 5
_DT_SONAME: Final = 14
_MAX_NAME_BYTES: Final = 256
_MAX_SEGMENTS: Final = 256
_MAX_DYNAMIC_BYTES: Final = 1 << 20


def read_soname(path: Path) -> str | None:
    """Return the SONAME of the 64-bit little-endian library at `path`, or None when it has none.

    Reads a few kilobytes: driver libraries are up to 100 MB. Raises ElfInvalid for anything else than such a
    library, OSError when it can not be read.
    """
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        return _Elf(descriptor).soname()
    except (struct.error, OverflowError, ValueError, OSError) as error:
        raise ElfInvalid(f"library {path}", "is no complete 64-bit little-endian ELF file") from error
    finally:
        os.close(descriptor)


def is_32_bit(path: Path) -> bool:
    """Tell whether the file at `path` is a 32-bit ELF file: such a one is whole, and made for other programs.

    Raises OSError when it can not be read.
    """
    with path.open("rb") as file:
        return file.read(len(_IDENT_32)) == _IDENT_32


class _Elf:
    """An open library. Its methods let struct.error and ValueError through for whatever does not add up."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._segments = self._program_headers()

    def soname(self) -> str | None:
        dynamic = next((segment for segment in self._segments if segment.kind == _PT_DYNAMIC), None)
        if dynamic is None:
            return None
        entries = self._dynamic_entries(dynamic)
        if _DT_SONAME not in entries:
            return None
        start = self._file_offset(entries.get(_DT_STRTAB, -1)) + entries[_DT_SONAME]
        name, end, _ = self._at(start, _MAX_NAME_BYTES).partition(b"\0")
        if not name or not end:
            raise ValueError("SONAME without an end")
        return name.decode("ascii")

    def _at(self, offset: int, length: int) -> bytes:
        return os.pread(self._descriptor, length, offset)

    def _program_headers(self) -> list["_Segment"]:
        header = _HEADER.unpack(self._at(0, _HEADER.size))
        table, entry_bytes, count = header[5], header[9], header[10]
        if not header[0].startswith(_IDENT_64_LITTLE) or entry_bytes != _PROGRAM_HEADER.size or count > _MAX_SEGMENTS:
            raise ValueError("not a 64-bit little-endian ELF file")
        data = self._at(table, count * entry_bytes)
        return [
            _Segment(kind=fields[0], offset=fields[2], address=fields[3], file_bytes=fields[5])
            for fields in _PROGRAM_HEADER.iter_unpack(data)
        ]

    def _dynamic_entries(self, dynamic: "_Segment") -> dict[int, int]:
        size = min(dynamic.file_bytes, _MAX_DYNAMIC_BYTES) // _DYNAMIC_ENTRY.size * _DYNAMIC_ENTRY.size
        entries: dict[int, int] = {}
        for tag, value in _DYNAMIC_ENTRY.iter_unpack(self._at(dynamic.offset, size)):
            if tag == _DT_NULL:
                break
            entries.setdefault(tag, value)
        return entries

    def _file_offset(self, address: int) -> int:
        # DT_STRTAB is an address in memory; the loaded segment around it says where that is in the file.
        for segment in self._segments:
            if segment.kind == _PT_LOAD and segment.address <= address < segment.address + segment.file_bytes:
                return address - segment.address + segment.offset
        raise ValueError("string table outside every segment")


@dataclass(frozen=True, slots=True, kw_only=True)
class _Segment:
    """One program header: offset and file_bytes in the file, address when loaded."""

    kind: int
    offset: int
    address: int
    file_bytes: int

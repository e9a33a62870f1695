"""A builder of driver roots: trees as installers and packages leave them, with libraries just real enough to parse."""

import struct
from collections.abc import Callable
from pathlib import Path

import pytest

VERSION = "580.65.06"


def elf_library(soname: str | None) -> bytes:
    """The smallest 64-bit shared library with a dynamic section: header, two program headers, dynamic, strings."""
    strings = b"\0" + (soname.encode() + b"\0" if soname else b"")
    dynamic_at, load_address = 64 + 2 * 56, 0x1000
    entries = [(14, 1)] if soname else []
    strings_at = dynamic_at + (len(entries) + 2) * 16
    dynamic = b"".join(struct.pack("<qQ", *entry) for entry in [*entries, (5, load_address + strings_at), (0, 0)])
    size = strings_at + len(strings)
    header = struct.pack("<16sHHIQQQIHHHHHH", b"\x7fELF\x02\x01\x01", 3, 62, 1, 0, 64, 0, 0, 64, 56, 2, 0, 0, 0)
    load = struct.pack("<IIQQQQQQ", 1, 5, 0, load_address, load_address, size, size, 0x1000)
    dyn = struct.pack(
        "<IIQQQQQQ",
        2,
        4,
        dynamic_at,
        load_address + dynamic_at,
        load_address + dynamic_at,
        len(dynamic),
        len(dynamic),
        8,
    )
    return header + load + dyn + dynamic + strings


Populate = Callable[..., Path]


@pytest.fixture
def elf() -> Callable[[str | None], bytes]:
    return elf_library


@pytest.fixture
def driver_root(tmp_path: Path) -> Populate:
    """Returns a function that writes files (`str` content is a link's target) below a fresh root and returns it."""

    def populate(files: dict[str, bytes | str]) -> Path:
        root = tmp_path / "root"
        for name, content in files.items():
            path = root / name
            path.parent.mkdir(parents=True, exist_ok=True)
            if isinstance(content, str):
                path.symlink_to(content)
            else:
                path.write_bytes(content)
        return root

    return populate

import sys
from collections.abc import Callable
from pathlib import Path
from struct import pack

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fracgpu.cdi.elf import read_soname
from fracgpu.cdi.errors import ElfInvalid

Elf = Callable[[str | None], bytes]


@pytest.mark.parametrize("soname", ["libnvidia-nvvm.so.4", None])
def test_the_soname_is_read(tmp_path: Path, elf: Elf, soname: str | None) -> None:
    (tmp_path / "l").write_bytes(elf(soname))
    assert read_soname(tmp_path / "l") == soname


def test_a_real_library_is_read() -> None:
    loaded = [line.split()[-1] for line in Path("/proc/self/maps").read_text().splitlines() if "libc.so" in line]
    if not loaded:
        pytest.skip(f"{sys.executable} is not linked with glibc's libc.so.6")
    assert read_soname(Path(loaded[0])) == "libc.so.6"


def test_other_files_are_refused(tmp_path: Path, elf: Elf) -> None:
    (tmp_path / "l").write_bytes(b"#!/bin/sh\n")
    with pytest.raises(ElfInvalid, match="is no complete 64-bit little-endian ELF file; reinstall the NVIDIA driver"):
        read_soname(tmp_path / "l")


@given(cut=st.integers(0, 300), position=st.integers(0, 299), value=st.integers(0, 255))
def test_a_damaged_file_gives_an_answer_or_a_typed_error(
    tmp_path_factory: pytest.TempPathFactory, cut: int, position: int, value: int
) -> None:
    path = tmp_path_factory.getbasetemp() / "damaged.so"
    content = bytearray(
        b"\x7fELF\x02\x01".ljust(16, b"\0") + pack("<HHIQQQIHHHHHH", 3, 62, 1, 0, 64, 0, 0, 64, 56, 2, 0, 0, 0)
    )
    content += pack("<IIQQQQQQ", 1, 5, 0, 0, 0, 300, 300, 0) + pack("<IIQQQQQQ", 2, 4, 176, 176, 176, 48, 48, 8)
    content += pack("<qQqQqQ", 14, 1, 5, 224, 0, 0) + b"\0libx.so.1\0"
    if position < len(content):
        content[position] = value
    path.write_bytes(bytes(content[: cut or None]))
    try:
        answer = read_soname(path)
    except ElfInvalid:
        return
    assert answer is None or isinstance(answer, str)

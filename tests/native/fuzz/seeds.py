"""Inputs for the fuzz target to begin with, made by the encoders that make the real files, and those that are kept."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

from fracgpu.native import abi
from fracgpu.native.config_page import ConfigPage, encode_config_page
from fracgpu.native.state_file import new_state_file

CORPUS: Final = Path(__file__).parent / "corpus"
# The one that target.c takes for its own.
GPU: Final = "GPU-01010101-0202-0303-0404-050505050505"
_PAGE: Final = ConfigPage(allocation_id="a", device_uuid=GPU, memory_limit_bytes=1 << 30, cores_percent=30)
_PLAIN, _CUT_SHORT, _ODD = b"\0", b"\1", b"\2"
_U64_MAX: Final = 2**64 - 1


def write_seeds(directory: Path) -> int:
    """Write all inputs below `directory`, one file each, and return their number."""
    inputs = {*_configs(), *_states(), *kept()}
    for one in inputs:
        (directory / hashlib.sha256(one).hexdigest()[:16]).write_bytes(one)
    return len(inputs)


def kept() -> Iterable[bytes]:
    """Return the inputs of the corpus: one per line in hexadecimal, `#` begins a comment."""
    for path in sorted(CORPUS.glob("*.hex")):
        for line in path.read_text(encoding="ascii").splitlines():
            text = line.partition("#")[0].strip()
            if text:
                yield bytes.fromhex(text)


def _configs() -> Iterable[bytes]:
    pages = (
        _PAGE,
        replace(_PAGE, memory_limit_bytes=None, observe=True),
        replace(_PAGE, suspend=True, generation=2**64 - 2),
        replace(_PAGE, allocation_id="x" * 255, count_overhead=False),
    )
    for page in pages:
        content = encode_config_page(page)
        header = bytearray(content[abi.FEEDBACK_OFFSET_BYTES : abi.FEEDBACK_OFFSET_BYTES + 64])
        # A section of two slots instead of a thousand, so that an input is small.
        header[20:24] = (2).to_bytes(4, "little")
        short = bytearray(content[: abi.CONFIG_BYTES])
        short[60:64] = (2).to_bytes(4, "little")
        slots = (1).to_bytes(8, "little") + b"\xff" * 24 + bytes(32)
        for how in (_PLAIN, _CUT_SHORT, _ODD):
            yield b"C" + how + bytes(short) + bytes(header) + slots
        yield b"C" + _PLAIN + content[: abi.CONFIG_BYTES]
    # An id that does not end.
    yield b"C" + _PLAIN + encode_config_page(_PAGE)[: abi.CONFIG_BYTES - abi.ALLOCATION_ID_BYTES] + b"x" * 1000


def _states() -> Iterable[bytes]:
    for slots, high_water in ((1, 0), (4, 4), (4, _U64_MAX), (100, 3)):
        header: Any = abi.ffi.new("struct fracgpu_state_header *")
        abi.ffi.buffer(header)[:] = new_state_file(GPU)[: abi.ffi.sizeof("struct fracgpu_state_header")]
        header.slot_count, header.slot_high_water = slots, high_water
        head = bytes(abi.ffi.buffer(header))
        for how in (_PLAIN, _CUT_SHORT):
            yield b"S" + how + head
        yield b"S" + _PLAIN + head + b"".join(_slot(state, amount) for state in range(5) for amount in (1, _U64_MAX))


def _slot(state: int, amount: int) -> bytes:
    slot: Any = abi.ffi.new("struct fracgpu_slot *")
    slot.state, slot.pid, slot.generation = state, 1, amount
    slot.committed_bytes = slot.pending_bytes = slot.overhead_bytes = amount
    return bytes(abi.ffi.buffer(slot))

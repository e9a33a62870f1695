"""Changes a config page in place, while containers have it mounted and programs run under it.

The file is never replaced: containers hold its inode. A change makes the generation odd, writes the values, makes it
even again and wakes who waits on it. Readers take nothing from an odd page: they go on with what they read last. A
writer that dies in between leaves an odd page behind, which the next change makes good; of what it wrote each value is
an old or a new one.

Changes of one page exclude each other by a lock on its directory, which no container has: on the page itself a
container could hold a lock too.
"""

import ctypes
import errno
import fcntl
import mmap
import os
import platform
import stat
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

from fracgpu.driver.kill_points import kill_point
from fracgpu.native import abi
from fracgpu.native.config_page import ConfigPage, decode_config_page, encode_config_page
from fracgpu.native.errors import ConfigPageBusy, ConfigPageInvalid
from fracgpu.native.store_order import order_stores

LOCK_SECONDS: Final = 5.0
_LOCK_PAUSE_SECONDS: Final = 0.002
# A writer is odd for some microseconds, unless it loses its CPU.
_READ_TRIES: Final = 40
_READ_PAUSE_SECONDS: Final = 0.0005

_GENERATION_OFFSET: Final[int] = abi.ffi.offsetof("struct fracgpu_config", "generation")
_U64: Final = 2**64
_FUTEX_WAKE: Final = 1
_EVERYBODY: Final = 2**31 - 1
_SYS_FUTEX: Final = {"x86_64": 202, "aarch64": 98}


def read_config_page(path: Path) -> ConfigPage:
    """Return what the config page at `path` says, between two changes.

    Raises ConfigPageInvalid for a page that no interceptor would accept, also for one whose last change was cut off;
    OSError when it can not be read.
    """
    previous = b""
    for attempt in range(_READ_TRIES):
        content = path.read_bytes()
        # Reading takes time in which the page may change; read twice alike and at rest, nobody was writing.
        if content[: abi.CONFIG_BYTES] == previous and _at_rest(content):
            break
        previous = content[: abi.CONFIG_BYTES]
        if attempt and not _at_rest(content):
            time.sleep(_READ_PAUSE_SECONDS)
    return decode_config_page(content)


def change_config_page(
    path: Path, change: Callable[[ConfigPage], ConfigPage], *, lock_seconds: float = LOCK_SECONDS
) -> ConfigPage:
    """Replace what the page at `path` says by what `change` makes of it, and return that.

    `change` gets the page as it is, and returns it with another limit, other cores or another suspension; generation
    and identity are not its business. A page left by a cut-off change is made good even when `change` changes nothing.
    Raises ConfigPageInvalid for a file that is no config page or a result that is none, ConfigPageBusy when another
    change does not end, OSError when the file can not be opened; nothing is changed then.
    """
    with _locked(path, lock_seconds):
        descriptor = os.open(path, os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        try:
            return _change(path, descriptor, change)
        finally:
            os.close(descriptor)


def _change(path: Path, descriptor: int, change: Callable[[ConfigPage], ConfigPage]) -> ConfigPage:
    status = os.fstat(descriptor)
    if not stat.S_ISREG(status.st_mode) or status.st_size < abi.CONFIG_FILE_BYTES:
        raise ConfigPageInvalid(f"config page {path}", "is no file of a config page's size")
    content = bytearray(os.pread(descriptor, abi.CONFIG_FILE_BYTES, 0))
    cut_off = not _at_rest(content)
    if cut_off:
        _set_generation(content, _generation(content) + 1)
    current = decode_config_page(bytes(content))
    changed = change(current)
    _check_change(path, current, changed)
    if changed == current and not cut_off:
        return current
    changed = replace(changed, generation=current.generation if cut_off else (current.generation + 2) % _U64)
    encoded = encode_config_page(changed)
    with mmap.mmap(descriptor, abi.CONFIG_FILE_BYTES, mmap.MAP_SHARED) as mapping:
        _store(mapping, encoded, changed.generation)
    return changed


def _store(mapping: mmap.mmap, encoded: bytes, generation: int) -> None:
    view: Any = abi.ffi.from_buffer(mapping)
    try:
        page: Any = abi.ffi.cast("struct fracgpu_config *", view)
        wanted: Any = abi.ffi.cast("struct fracgpu_config *", abi.ffi.from_buffer(encoded))
        kill_point("config page: generation becomes odd")
        page.generation = generation - 1
        order_stores()
        kill_point("config page: memory limit")
        page.memory_limit_bytes = wanted.memory_limit_bytes
        kill_point("config page: cores")
        page.cores_percent = wanted.cores_percent
        kill_point("config page: flags")
        # Flags of a later version are not this one's to take away.
        page.flags = (page.flags & ~_KNOWN_FLAGS) | wanted.flags
        order_stores()
        kill_point("config page: generation becomes even")
        page.generation = generation
        order_stores()
        kill_point("config page: wake")
        _wake(int(abi.ffi.cast("uintptr_t", view)) + _GENERATION_OFFSET)
    finally:
        abi.ffi.release(view)


_KNOWN_FLAGS: Final[int] = abi.FLAG_SUSPEND | abi.FLAG_OBSERVE | abi.FLAG_IGNORE_OVERHEAD


def _wake(address: int) -> None:
    """Wake everybody who waits on the generation; without, they look by themselves within half a second."""
    number = _SYS_FUTEX.get(platform.machine())
    if number is not None:
        ctypes.CDLL(None).syscall(number, ctypes.c_void_p(address), _FUTEX_WAKE, _EVERYBODY, None, None, 0)


def _check_change(path: Path, current: ConfigPage, changed: ConfigPage) -> None:
    identity = (changed.allocation_id, changed.device_uuid, changed.generation, changed.utilization_view)
    if identity != (current.allocation_id, current.device_uuid, current.generation, current.utilization_view):
        raise ConfigPageInvalid(f"config page {path}", "can not become the page of another allocation")


def _generation(content: bytes | bytearray) -> int:
    return int.from_bytes(content[_GENERATION_OFFSET : _GENERATION_OFFSET + 8], "little")


def _set_generation(content: bytearray, generation: int) -> None:
    content[_GENERATION_OFFSET : _GENERATION_OFFSET + 8] = (generation % _U64).to_bytes(8, "little")


def _at_rest(content: bytes | bytearray) -> bool:
    return _generation(content) % 2 == 0


@contextmanager
def _locked(path: Path, lock_seconds: float) -> Iterator[None]:
    descriptor = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        end = time.monotonic() + lock_seconds
        while not _try_lock(descriptor):
            if time.monotonic() >= end:
                raise ConfigPageBusy(f"config page {path}", f"is being changed since {lock_seconds:.0f} s")
            time.sleep(_LOCK_PAUSE_SECONDS)
        yield
    finally:
        os.close(descriptor)


def _try_lock(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno in (errno.EWOULDBLOCK, errno.EINTR):
            return False
        raise
    return True

"""Reads config page and state file of an allocation for the observer: what they say, or why they say nothing.

The state file is written by the container, and may hold anything; that is told apart from a file which is not there,
one of another version, and one that this plugin failed to read, because only the first is the container's doing.
"""

import os
import stat
from pathlib import Path
from typing import Final

from fracgpu.kubeletplugin.proof.evidence import FileTrouble, Trouble
from fracgpu.native import abi
from fracgpu.native.config_change import read_config_page
from fracgpu.native.config_page import ConfigPage
from fracgpu.native.errors import ConfigPageInvalid, StateFileInvalid
from fracgpu.native.state_file import StateSnapshot, read_state_file

# Both files begin with a 64-bit magic number and the 32-bit ABI version (fracgpu_abi.h).
_MAGIC_BYTES: Final = 8
_HEAD_BYTES: Final = 12


def read_account(path: Path, gpu_uuid: str) -> StateSnapshot | FileTrouble:
    """Return what the state file at `path` says of the GPU `gpu_uuid`, or why it says nothing."""
    try:
        snapshot = read_state_file(path)
    except StateFileInvalid as error:
        cause = error.__cause__
        if isinstance(cause, FileNotFoundError):
            return FileTrouble(Trouble.MISSING, "is not there")
        if isinstance(cause, OSError):
            return FileTrouble(Trouble.UNREADABLE, error.what)
        return FileTrouble(_damage(path, abi.STATE_MAGIC), error.what)
    if snapshot.device_uuid.lower() != gpu_uuid.lower():
        return FileTrouble(Trouble.DAMAGED, f"is of GPU {snapshot.device_uuid}")
    return snapshot


def read_page(path: Path) -> ConfigPage | FileTrouble:
    """Return what the config page at `path` says, or why it says nothing."""
    try:
        return read_config_page(path)
    except FileNotFoundError:
        return FileTrouble(Trouble.MISSING, "is not there")
    except OSError as error:
        return FileTrouble(Trouble.UNREADABLE, f"can not be read: {error.strerror}")
    except ConfigPageInvalid as error:
        return FileTrouble(_damage(path, abi.CONFIG_MAGIC), f"is not valid: {error.what}")


def _damage(path: Path, magic: int) -> Trouble:
    """Tell a file of another ABI version, which another plugin wrote in order, from one that nobody can use."""
    try:
        # The container may have put anything in the place of its state file; nothing of it may block.
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        return Trouble.DAMAGED
    try:
        regular = stat.S_ISREG(os.fstat(descriptor).st_mode)
        head = os.pread(descriptor, _HEAD_BYTES, 0) if regular else b""
    except OSError:
        return Trouble.DAMAGED
    finally:
        os.close(descriptor)
    ours = len(head) == _HEAD_BYTES and int.from_bytes(head[:_MAGIC_BYTES], "little") == magic
    other = int.from_bytes(head[_MAGIC_BYTES:], "little") != abi.ABI_VERSION
    return Trouble.OTHER_VERSION if ours and other else Trouble.DAMAGED

"""What makes a container of a process, for the model: namespaces, bind mounts, other users, the devices cgroup.

A container here has nothing of its own but the directory /mnt, a tmpfs, with what a runtime would mount into it:
`machine` (the model's hardware, read-write), `lib`, `bin` (the probes) and `dev`. Other users reach nothing else.
"""

import ctypes
import os
import shlex
import struct
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from fracgpu.native.libraries import NativeLibraries

USER: Final = 1000
MACHINE: Final = "/mnt/machine"
ENVIRONMENT: Final = {"FRACGPU_FAKE_GPU": MACHINE, "LD_LIBRARY_PATH": "/mnt/lib"}
# NVIDIA's character devices have this major number; the GPUs' minor numbers are their own.
NVIDIA_MAJOR: Final = 195
CONTROL_MINOR: Final = 255

_MOUNTS: Final = """set -e
mount -t tmpfs -o mode=755 tmpfs /mnt
mkdir /mnt/lib /mnt/bin /mnt/dev
mount --bind {lib} /mnt/lib
mount --bind {bin} /mnt/bin
: >/mnt/machine
mount --bind {machine} /mnt/machine
mount -t tmpfs tmpfs {hidden}
{more}
exec "$@"
"""


def container(
    machine: Path, libraries: NativeLibraries, *, more: str = "", user: int | None = None, own_pids: bool = True
) -> tuple[str, ...]:
    """Return the beginning of a command that runs in a container of `machine`; `more` is shell, run as its root.

    The machine's own path leads nowhere in there. With `user` the command runs under that uid and without any
    capability, which takes root's rights out here.
    """
    script = _MOUNTS.format(
        lib=shlex.quote(str(libraries.fake_cuda.parent)),
        bin=shlex.quote(str(libraries.probe("fracgpu-view").parent)),
        machine=shlex.quote(str(machine)),
        hidden=shlex.quote(str(machine.parent)),
        more=more,
    )
    pids = ("--pid", "--fork", "--mount-proc") if own_pids else ()
    users = () if os.geteuid() == 0 else ("--user", "--map-root-user")
    identity = ("setpriv", f"--reuid={user}", f"--regid={user}", "--clear-groups") if user is not None else ()
    return ("unshare", *users, "--mount", *pids, "sh", "-c", script, "sh", *identity)


def why_no_container() -> str | None:
    """Return what this machine refuses, if it refuses the namespaces."""
    users = () if os.geteuid() == 0 else ("--user", "--map-root-user")
    command = ["unshare", *users, "--mount", "--pid", "--fork", "--mount-proc", "mount", "-t", "tmpfs", "tmpfs", "/mnt"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return None if done.returncode == 0 else f"no mount and pid namespaces: {done.stderr.strip()}"


def why_no_nodes() -> str | None:
    """Return why device nodes can not be made and opened here, if so: it takes root, outside of any container."""
    if os.geteuid() != 0:
        return "making device nodes and changing users is for root"
    program = f"""
import errno, os
os.mknod("/mnt/node", 0o020666, os.makedev({NVIDIA_MAJOR}, 3))
try:
    os.open("/mnt/node", os.O_RDWR)
except OSError as error:
    assert error.errno in (errno.ENXIO, errno.ENODEV), error
"""
    script = 'mount -t tmpfs tmpfs /mnt && exec /usr/bin/env python3 -c "$0"'
    done = subprocess.run(
        ["unshare", "--mount", "sh", "-c", script, program], capture_output=True, text=True, check=False
    )
    return None if done.returncode == 0 else f"no device nodes: {done.stderr.strip()[-200:]}"


class NoDeviceCgroup(Exception):
    """There is no devices cgroup of that version on this machine, or none for us."""


@contextmanager
def device_cgroup(version: int, denied_minor: int) -> Iterator[Path]:
    """Make a cgroup whose processes may not open NVIDIA's device `denied_minor`; yields its cgroup.procs.

    `version` 1 is the devices controller, 2 a BPF program of type cgroup/dev (Documentation/admin-guide/cgroup-v2.rst).
    Raises NoDeviceCgroup.
    """
    parent = _cgroup_mount(version)
    directory = parent / f"fracgpu-test-{os.getpid()}-{denied_minor}"
    try:
        directory.mkdir()
    except OSError as error:
        raise NoDeviceCgroup(f"{directory}: {error.strerror}") from error
    try:
        if version == 1:
            (directory / "devices.deny").write_text(f"c {NVIDIA_MAJOR}:{denied_minor} rwm")
        else:
            _attach_program(directory, denied_minor)
        yield directory / "cgroup.procs"
    finally:
        directory.rmdir()


def _cgroup_mount(version: int) -> Path:
    for line in Path("/proc/self/mountinfo").read_text(encoding="ascii").splitlines():
        before, _, after = line.partition(" - ")
        kind, _, options = after.split(" ")
        if kind == ("cgroup2" if version == 2 else "cgroup") and (version == 2 or "devices" in options.split(",")):
            return Path(before.split(" ")[4])
    raise NoDeviceCgroup(f"no hierarchy of version {version} with devices is mounted")


_SYS_BPF: Final = 321
_PROG_LOAD, _PROG_ATTACH = 5, 8
_PROGRAM_OF_DEVICES, _ATTACH_DEVICES = 15, 6


def _instruction(code: int, target: int = 0, source: int = 0, jump: int = 0, value: int = 0) -> bytes:
    return struct.pack("<BBhi", code, target | source << 4, jump, value)


def _attach_program(directory: Path, denied_minor: int) -> None:
    """Attach: return 0 for that device, 1 for all others. The kernel drops the program with the cgroup."""
    load_word, jump_unless, move, leave = 0x61, 0x55, 0xB7, 0x95
    # r1 points to struct bpf_cgroup_dev_ctx: u32 access_type, major, minor.
    program = b"".join((
        _instruction(load_word, 2, 1, 4),
        _instruction(jump_unless, 2, jump=4, value=NVIDIA_MAJOR),
        _instruction(load_word, 2, 1, 8),
        _instruction(jump_unless, 2, jump=2, value=denied_minor),
        _instruction(move, value=0),
        _instruction(leave),
        _instruction(move, value=1),
        _instruction(leave),
    ))  # fmt: skip
    code = ctypes.create_string_buffer(program, len(program))
    licence = ctypes.create_string_buffer(b"Apache-2.0")
    count = len(program) // 8
    addresses = (ctypes.addressof(code), ctypes.addressof(licence))
    loaded = _bpf(_PROG_LOAD, struct.pack("<IIQQIIQI", _PROGRAM_OF_DEVICES, count, *addresses, 0, 0, 0, 0))
    cgroup = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        _bpf(_PROG_ATTACH, struct.pack("<IIII", cgroup, loaded, _ATTACH_DEVICES, 0))
    finally:
        os.close(cgroup)
        os.close(loaded)


def _bpf(command: int, attributes: bytes) -> int:
    libc = ctypes.CDLL(None, use_errno=True)
    raw = ctypes.create_string_buffer(attributes, len(attributes))
    result = int(libc.syscall(_SYS_BPF, command, raw, len(attributes)))
    if result < 0:
        raise NoDeviceCgroup(f"bpf(2): {os.strerror(ctypes.get_errno())}")
    return result

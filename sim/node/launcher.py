"""Become a container: ``python -m fracgpu.sim.node.launcher SPEC_FD``.

The runtime starts this small program in a new session; it makes the container's namespaces, mounts what the CDI edits
ask for, and then replaces itself by the container's command, so that the process which the runtime waits for is the
command itself.

Namespaces: with privileges a mount namespace; without, a user namespace as well, in which the caller's own uid and gid
are mapped to themselves. The kernel gives the creator of a user namespace all capabilities inside until it calls
``exec``, which is exactly as long as they are needed (user_namespaces(7)); the command runs as the caller, not as root.

What goes wrong is written as one JSON line to the status pipe; a successful ``exec`` closes it empty.

Only the standard library is imported, to start fast and to keep the program small.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import signal
import sys
from pathlib import Path
from typing import Any, NoReturn

from fracgpu.sim.node import mounts

# <linux/sched.h>, <linux/mount.h>, <linux/prctl.h>
CLONE_NEWNS = 0x0002_0000
CLONE_NEWUSER = 0x1000_0000
MS_RDONLY, MS_NOSUID, MS_NODEV, MS_NOEXEC, MS_REMOUNT = 0x1, 0x2, 0x4, 0x8, 0x20
MS_NOATIME, MS_NODIRATIME, MS_BIND, MS_REC, MS_PRIVATE, MS_RELATIME = 0x400, 0x800, 0x1000, 0x4000, 0x4_0000, 0x20_0000
PR_SET_PDEATHSIG = 1

# A remount inside a user namespace may not clear what the outer mount has set: statvfs(3) flag -> mount(2) flag.
_KEPT_FLAGS = {
    os.ST_NOSUID: MS_NOSUID,
    os.ST_NODEV: MS_NODEV,
    os.ST_NOEXEC: MS_NOEXEC,
    os.ST_NOATIME: MS_NOATIME,
    os.ST_NODIRATIME: MS_NODIRATIME,
    os.ST_RELATIME: MS_RELATIME,
}

_libc = ctypes.CDLL(None, use_errno=True)


class LaunchStepFailed(Exception):
    """A step before ``exec`` failed: what was tried, on what, and the error number."""

    def __init__(self, step: str, errno_: int) -> None:
        super().__init__(f"{step}: {os.strerror(errno_)}")
        self.step = step
        self.errno = errno_


def _call(step: str, function: str, *arguments: object) -> None:
    if getattr(_libc, function)(*arguments) != 0:
        raise LaunchStepFailed(step, ctypes.get_errno())


def _mount(step: str, source: str | None, target: str, kind: str | None, flags: int, data: str | None = None) -> None:
    encoded = [None if text is None else os.fsencode(text) for text in (source, target, kind)]
    _call(step, "mount", *encoded, ctypes.c_ulong(flags), None if data is None else os.fsencode(data))


def _unshare(namespaces: list[str]) -> None:
    flags = CLONE_NEWNS | (CLONE_NEWUSER if "user" in namespaces else 0)
    uid, gid = os.getuid(), os.getgid()
    _call("make the container's namespaces", "unshare", flags)
    if "user" in namespaces:
        Path("/proc/self/setgroups").write_text("deny")
        Path("/proc/self/uid_map").write_text(f"{uid} {uid} 1")
        Path("/proc/self/gid_map").write_text(f"{gid} {gid} 1")
    # Nothing mounted here may travel to the machine's own namespace.
    _mount("make the container's mounts private", None, "/", None, MS_REC | MS_PRIVATE)


def _join(pid: int, namespaces: list[str]) -> None:
    """Enter the namespaces of a running container, the user namespace first: it grants the right to the other."""
    kinds = [kind for kind in ("user", "mount") if kind in namespaces]
    descriptors = [os.open(f"/proc/{pid}/ns/{'mnt' if kind == 'mount' else kind}", os.O_RDONLY) for kind in kinds]
    for kind, descriptor in zip(kinds, descriptors, strict=True):
        _call(f"join the container's {kind} namespace", "setns", descriptor, 0)
        os.close(descriptor)


def _lay_overlay(directory: str, layer: str) -> None:
    """Make ``directory`` writable in this namespace only; what was mounted below it stays visible."""
    mountinfo = Path("/proc/self/mountinfo").read_text()
    below = [(path, os.open(path, os.O_PATH)) for path in mounts.mounts_below(mountinfo, directory)]
    upper, work = f"{layer}/upper", f"{layer}/work"
    Path(upper).mkdir(parents=True)
    Path(work).mkdir()
    options = ",".join(
        f"{key}={mounts.escape_overlay_path(path)}"
        for key, path in (("lowerdir", directory), ("upperdir", upper), ("workdir", work))
    )
    _mount(f"overlay {directory}", "overlay", directory, "overlay", 0, options)
    for path, descriptor in below:
        _mount(f"keep the mount on {path}", f"/proc/self/fd/{descriptor}", path, None, MS_BIND | MS_REC)
        os.close(descriptor)


def _create_mount_point(target: str, *, directory: bool) -> None:
    path = Path(target)
    if path.exists():
        return
    if directory:
        path.mkdir(parents=True)
    else:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()


def _bind(source_fd: int, target: str, *, read_only: bool) -> None:
    source = f"/proc/self/fd/{source_fd}"
    _create_mount_point(target, directory=Path(source).is_dir())
    _mount(f"mount {target}", source, target, None, MS_BIND | MS_REC)
    if read_only:
        present = os.statvfs(target).f_flag
        kept = sum(mount_flag for seen, mount_flag in _KEPT_FLAGS.items() if present & seen)
        _mount(f"make {target} read-only", None, target, None, MS_REMOUNT | MS_BIND | MS_RDONLY | kept)


def _apply_mounts(wanted: list[dict[str, Any]]) -> None:
    """Mount what the edits ask for, in the order given, over a fresh ``/run``."""
    # Opened first: the new /run may hide them.
    sources = [os.open(mount["source"], os.O_PATH | os.O_CLOEXEC) for mount in wanted]
    targets = [str(Path(mount["target"]).resolve()) for mount in wanted]
    overlays = mounts.overlay_directories(targets)
    # The layers live in a tmpfs that the container's own /run then covers: nobody can reach them from inside.
    _mount("mount a tmpfs for the layers", "tmpfs", mounts.RUN_DIR, "tmpfs", 0, "mode=0755,size=16m")
    for number, directory in enumerate(overlays):
        _lay_overlay(directory, f"{mounts.RUN_DIR}/layer-{number}")
    _mount("mount the container's /run", "tmpfs", mounts.RUN_DIR, "tmpfs", MS_NOSUID | MS_NODEV, "mode=0755,size=16m")
    for mount, source, target in zip(wanted, sources, targets, strict=True):
        _bind(source, target, read_only=mount["read_only"])
        os.close(source)


def _die_with_parent(parent_pid: int) -> None:
    """Ask the kernel to kill this process when the runtime dies, however it dies (prctl(2))."""
    _call("tie the container to the runtime", "prctl", PR_SET_PDEATHSIG, ctypes.c_ulong(signal.SIGKILL), 0, 0, 0)
    if os.getppid() != parent_pid:
        os.kill(os.getpid(), signal.SIGKILL)


def _execute(spec: dict[str, Any]) -> NoReturn:
    os.chdir(spec["cwd"])
    # Python ignores these, and an ignored signal stays ignored across exec.
    for ignored in (signal.SIGPIPE, signal.SIGXFSZ):
        signal.signal(ignored, signal.SIG_DFL)
    try:
        os.execvpe(spec["argv"][0], spec["argv"], spec["env"])  # noqa: S606 - becoming the command is the point
    except OSError as error:
        raise LaunchStepFailed(f"exec {spec['argv'][0]}", error.errno or 0) from error


def _launch(spec: dict[str, Any]) -> NoReturn:
    namespaces = spec["namespaces"]
    if spec["join_pid"] is not None:
        _join(spec["join_pid"], namespaces)
    elif namespaces:
        _unshare(namespaces)
        _apply_mounts(spec["mounts"])
    # After the namespaces: a change of credentials clears the setting.
    _die_with_parent(spec["parent_pid"])
    _execute(spec)


def main(argv: list[str]) -> int:
    """Read the spec from the file descriptor named in ``argv`` and become the container; returns only on failure."""
    with os.fdopen(int(argv[0])) as stream:
        spec = json.load(stream)
    status_fd = spec["status_fd"]
    os.set_inheritable(status_fd, False)
    report: dict[str, Any]
    try:
        _launch(spec)
    except LaunchStepFailed as error:
        report = {"message": str(error), "errno": error.errno, "at_exec": error.step.startswith("exec ")}
    except (OSError, mounts.MountPointUnreachable) as error:
        report = {"message": str(error), "errno": getattr(error, "errno", None) or 0, "at_exec": False}
    with contextlib.suppress(OSError):
        os.write(status_fd, json.dumps(report).encode())
    return 128


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

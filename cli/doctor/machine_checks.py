"""Can the interceptor run on this machine, and does it have one?"""

from __future__ import annotations

import re
from collections.abc import Iterator

from fracgpu.cli.doctor.finding import Finding, fail, failed, info, ok, warn
from fracgpu.cli.doctor.host import Host, read_text
from fracgpu.kubeletplugin.prepare.edits import library_directories
from fracgpu.native.errors import NativeLibrariesMissing

_MACHINES = ("x86_64", "aarch64")
# madvise(2): MADV_WIPEONFORK, by which the interceptor knows a forked child.
_OLDEST_KERNEL = (4, 14)
_GLIBC_LOADERS = (
    "/lib64/ld-linux-x86-64.so.2",
    "/lib/ld-linux-aarch64.so.1",
    "/usr/local/glibc/lib/ld-linux-x86-64.so.2",
    "/usr/local/glibc/usr/lib/ld-linux-x86-64.so.2",
)
_MUSL_DIRECTORY, _MUSL_LOADERS = "/lib", "ld-musl-*.so.1"


def check_machine(host: Host) -> Iterator[Finding]:
    """The architecture, and where containers get the libraries on it."""
    directories = ", ".join(library_directories(host.machine))
    if host.machine in _MACHINES:
        yield ok("architecture", f"{host.machine}; containers get the libraries in {directories}")
    else:
        what = f"{host.machine} is not one that the interceptor is built for"
        yield fail("architecture", what, f"use {' or '.join(_MACHINES)}")


def check_kernel(host: Host) -> Iterator[Finding]:
    """The kernel has what the interceptor relies on."""
    match = re.match(r"(\d+)\.(\d+)", host.kernel_release)
    if match is not None and (int(match[1]), int(match[2])) >= _OLDEST_KERNEL:
        yield ok("kernel", host.kernel_release)
    else:
        oldest = ".".join(map(str, _OLDEST_KERNEL))
        yield fail("kernel", f"{host.kernel_release} is too old", f"use {oldest} or newer")


def check_libc(host: Host) -> Iterator[Finding]:
    """NVIDIA's driver is made for glibc. The host's matters to `fracgpu run` only; images bring their own."""
    if any(host.path(loader) is not None for loader in _GLIBC_LOADERS):
        yield ok("C library", "glibc")
    elif host.entries(_MUSL_DIRECTORY, _MUSL_LOADERS):
        yield info("C library", "musl: fracgpu run can not limit programs of this host; containers bring their own")
    else:
        yield info("C library", "none found; containers bring their own")


def check_interceptor(host: Host) -> Iterator[Finding]:
    """Our own installation has the libraries that go into containers."""
    try:
        natives = host.locate_interceptor()
        files = (*natives.interceptor, natives.standalone_cuda, natives.standalone_nvml)
    except NativeLibrariesMissing as error:
        yield failed("interceptor", error)
        return
    yield ok("interceptor", f"{len(files)} files in {natives.directory}")


def check_host_pids(host: Host) -> Iterator[Finding]:
    """In a pod the plugin must see the host's processes: NVML names them by the host's numbers."""
    if not host.in_pod:
        return
    # Process 2 is the kernel's own thread daemon in the host's namespace and in no other.
    if (read_text(host.proc / "2" / "comm") or "").strip() == "kthreadd":
        yield ok("host processes", "visible")
    else:
        remedy = "set hostPID: true for the plugin's pod; without it nothing can be proved about a container"
        yield warn("host processes", "this pod sees only its own", remedy)

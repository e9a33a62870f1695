"""``fracgpu doctor``: run every check, print what they found, change nothing."""

from __future__ import annotations

import argparse
import os
import platform
import socket
import sys
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from fracgpu.cli.doctor.cluster_checks import check_cluster_owners
from fracgpu.cli.doctor.driver_checks import check_device_nodes, check_driver, check_kernel_module, check_nvml
from fracgpu.cli.doctor.finding import Finding, Level, fail
from fracgpu.cli.doctor.host import Host
from fracgpu.cli.doctor.machine_checks import (
    check_host_pids,
    check_interceptor,
    check_kernel,
    check_libc,
    check_machine,
)
from fracgpu.cli.doctor.node_checks import (
    check_checkpoint,
    check_kubelet,
    check_privileges,
    check_sockets,
    check_stored_interceptors,
)
from fracgpu.cli.doctor.nvml_facts import ask_nvml
from fracgpu.cli.doctor.owner_checks import check_other_owners
from fracgpu.cli.doctor.report import as_json, as_text
from fracgpu.cli.doctor.runtime_checks import check_cdi_directory, check_cdi_specs, check_runtime
from fracgpu.cli.streams import put
from fracgpu.kubeletplugin.kubelet_root import DEFAULT_KUBELET_ROOT, find_kubelet_root
from fracgpu.native.libraries import NativeLibraries

EXIT_HEALTHY, EXIT_FAILING = 0, 1
# Whoever listens accepts at once; a queue that is full for longer is as good as dead.
_CONNECT_SECONDS = 1.0
_CHECKS: tuple[Callable[[Host], Iterable[Finding]], ...] = (
    check_privileges,
    check_machine,
    check_kernel,
    check_libc,
    check_interceptor,
    check_driver,
    check_kernel_module,
    check_device_nodes,
    check_nvml,
    check_cdi_directory,
    check_cdi_specs,
    check_runtime,
    check_kubelet,
    check_sockets,
    check_checkpoint,
    check_stored_interceptors,
    check_host_pids,
    check_other_owners,
)


def run_doctor(arguments: argparse.Namespace) -> int:
    """Examine this machine as the command line asks; return the exit status."""
    findings = examine(this_host(arguments.host_root, arguments.kubelet_root))
    if arguments.kubeconfig is not None:
        findings += check_cluster_owners(arguments.kubeconfig)
    error = put(sys.stdout, f"{as_json(findings) if arguments.json else as_text(findings)}\n")
    if error is not None:
        put(sys.stderr, f"fracgpu doctor: standard output: {error.strerror}; write the report elsewhere\n")
        return EXIT_FAILING
    return EXIT_FAILING if any(finding.level is Level.FAIL for finding in findings) else EXIT_HEALTHY


def this_host(root: Path, kubelet_root: Path | None) -> Host:
    """Return the machine whose root directory this process sees at `root`."""
    # A /proc that the host's root brings along shows the host's processes; the driver's file is the same in both.
    proc = root / "proc"
    return Host(
        root=root,
        proc=proc if os.path.exists(proc / "version") else Path("/proc"),  # noqa: PTH110 (never raises)
        kubelet_root=kubelet_root or _kubelet_root(root),
        in_pod="KUBERNETES_SERVICE_HOST" in os.environ,
        machine=platform.machine(),
        kernel_release=platform.release(),
        ask_nvml=ask_nvml,
        answers=_answers,
        locate_interceptor=NativeLibraries.locate,
    )


def examine(host: Host, checks: Sequence[Callable[[Host], Iterable[Finding]]] = _CHECKS) -> list[Finding]:
    """Return what all checks find. One that is kept from looking says so and does not keep the others from it."""
    findings: list[Finding] = []
    for check in checks:
        try:
            findings.extend(check(host))
        except OSError as error:
            name = check.__name__.removeprefix("check_").replace("_", " ")
            what = f"{error.filename or 'a file'} can not be read: {error.strerror}"
            findings.append(fail(name, what, "run fracgpu doctor as root"))
    return findings


def _kubelet_root(root: Path) -> Path:
    try:
        return find_kubelet_root(root)
    except OSError:
        # A user may not look into it; check_privileges says so.
        return DEFAULT_KUBELET_ROOT


def _answers(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as client:
        client.settimeout(_CONNECT_SECONDS)
        try:
            client.connect(str(path))
        except OSError:
            return False
    return True

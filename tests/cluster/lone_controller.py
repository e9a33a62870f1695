"""The shipped controller as a process beside a control plane without a node, with the token and rights of deploy/."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import socket
import sys
import urllib.request
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from tests.cluster.components.control_plane import answers
from tests.cluster.components.process import Component
from tests.cluster.lone_plane import NAMESPACE, LonePlane

ACCOUNT: Final = "fracgpu-controller"
_METRICS_S: Final = 10.0
_SAMPLE: Final = re.compile(r"^([a-zA-Z_:][a-zA-Z0-9_:]*)(?:\{(.*)\})? (\S+)$", re.MULTILINE)


@dataclass(frozen=True)
class LoneController:
    """One replica."""

    component: Component
    address: str

    @property
    def pid(self) -> int:
        """Process id; the replica must be running."""
        pid = self.component.pid
        assert pid is not None, self.component.log.read_text()[-2000:]
        return pid

    def log(self) -> str:
        """Return what it has logged."""
        return self.component.log.read_text(errors="replace")

    def metric(self, name: str, **labels: str) -> float:
        """Return the sum of the samples of a metric that have these labels; 0 if there is none."""
        with urllib.request.urlopen(f"{self.address}/metrics", timeout=_METRICS_S) as answer:  # noqa: S310 (our own URL)
            text = answer.read().decode()
        wanted = [f'{key}="{value}"' for key, value in labels.items()]
        return sum(
            float(value)
            for found, given, value in _SAMPLE.findall(text)
            if found == name and all(one in given.split(",") for one in wanted)
        )

    def kill(self) -> None:
        """End it without a word."""
        self.component.stop(signal.SIGKILL)

    @contextlib.contextmanager
    def stopped(self) -> Iterator[None]:
        """Let it hang, as a machine does whose disk or hypervisor has stopped; then it goes on where it was."""
        pid = self.pid
        os.kill(pid, signal.SIGSTOP)
        try:
            yield
        finally:
            os.kill(pid, signal.SIGCONT)


def start_controller(plane: LonePlane, name: str, *, allocator: str, arguments: Sequence[str] = ()) -> LoneController:
    """Start a replica and wait until it is ready. Raises ClusterUnavailable with the end of its log."""
    port = _free_port()
    kubeconfig = plane.kubeconfig(name, account=ACCOUNT, namespace=NAMESPACE, node="")
    address = f"http://127.0.0.1:{port}"
    argv = [
        *(sys.executable, "-m", "fracgpu.cli.main", "controller"),
        f"--kubeconfig={kubeconfig}",
        f"--allocator={allocator}",
        f"--http-port={port}",
        "--log-json",
        *arguments,
    ]
    log = plane.plane.api_server.log.with_name(f"{name}.log")
    env = {"POD_NAME": name, "POD_NAMESPACE": NAMESPACE}
    component = Component(name, argv, log=log, ready=lambda: answers(f"{address}/readyz"), env=env)
    component.start()
    return LoneController(component, address)


@contextlib.contextmanager
def lone_controller(
    plane: LonePlane, name: str = "controller", *, allocator: str = "controller", arguments: Sequence[str] = ()
) -> Iterator[LoneController]:
    """Run a replica. At the end it must not have been refused a right, nor have logged an error."""
    running = start_controller(plane, name, allocator=allocator, arguments=arguments)
    try:
        yield running
    finally:
        running.component.stop()
    assert "forbidden" not in running.log().lower(), f"a right is missing:\n{running.log()[-3000:]}"
    assert '"level":"error"' not in running.log(), running.log()[-3000:]


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])

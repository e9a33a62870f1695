"""A machine with two modelled GPUs and a driver installation, and fracgpu run on it as a user starts it."""

import signal
import subprocess
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from fracgpu.native.fake_gpu import FakeGpuSpec, create_machine
from fracgpu.native.libraries import NativeLibraries
from fracgpu.sim.lab.machine import make_driver_root
from tests.cli.machine import GPUS, MIB, Machine


@pytest.fixture
def machine(tmp_path: Path, native_build: NativeLibraries) -> Machine:
    specs = [
        FakeGpuSpec(
            uuid=uuid,
            memory_bytes=8192 * MIB,
            minor=index,
            pci_bus_id=f"0000:{index + 1:02x}:00.0",
            context_bytes=64 * MIB,
        )
        for index, uuid in enumerate(GPUS)
    ]
    create_machine(tmp_path / "gpus", specs)
    make_driver_root(tmp_path / "root", native_build, gpus=len(specs))
    (tmp_path / "tmp").mkdir()
    return Machine(tmp_path / "gpus", tmp_path / "root", tmp_path / "tmp", native_build)


@pytest.fixture
def start(machine: Machine) -> Iterator[Callable[..., subprocess.Popen[str]]]:
    """Start `fracgpu run` with pipes; what still runs at the end of the test is killed."""
    with ExitStack() as started:

        def begin(*arguments: str | Path, **popen: Any) -> subprocess.Popen[str]:
            process = subprocess.Popen(
                machine.arguments(*arguments),
                env=machine.environment(),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
                # A shell starts background jobs with SIGINT ignored, and a test run may be one.
                preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
                **popen,
            )
            started.callback(process.communicate)
            started.callback(process.kill)
            return process

        yield begin

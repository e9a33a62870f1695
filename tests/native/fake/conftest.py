"""The GPU that the conformance suite runs on: the model, or with FRACGPU_TEST_GPU=real the machine's own.

The suite is the model's judge: what it says of the model it must say, unchanged, of a real driver. Tests that look
into the model or need a GPU of a chosen size ask for the fixture `model` and are skipped on a real one.
"""

import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import pytest

from fracgpu.native import fake_gpu
from fracgpu.native.fake_gpu import FakeGpuSpec, FakeGpuUsage
from fracgpu.native.libraries import NativeLibraries
from tests.native.fake.cuda_process import CudaProcess

MIB = 1 << 20
REAL = os.environ.get("FRACGPU_TEST_GPU") == "real"
UUIDS = ("GPU-6c1f2a34-0b1c-4d2e-8f30-415263748596", "GPU-6c1f77aa-1c2d-4e3f-9041-526374859607")


@dataclass(frozen=True, slots=True)
class Model:
    """The modelled machine: two GPUs, of 1 GiB and 512 MiB, contexts of 16 MiB."""

    path: Path
    libraries: NativeLibraries

    @property
    def environment(self) -> dict[str, str]:
        return {
            "FRACGPU_FAKE_GPU": str(self.path),
            "LD_LIBRARY_PATH": str(self.libraries.fake_cuda.parent),
        }

    def usage(self, index: int = 0) -> FakeGpuUsage:
        return fake_gpu.read_usage(self.path)[index]


CONTEXT = 16 * MIB
SPECS = (
    FakeGpuSpec(uuid=UUIDS[0], memory_bytes=1024 * MIB, context_bytes=CONTEXT),
    FakeGpuSpec(uuid=UUIDS[1], memory_bytes=512 * MIB, context_bytes=CONTEXT, minor=3, pci_bus_id="0000:41:00.0"),
)


@pytest.fixture
def model(tmp_path: Path, native_build: NativeLibraries) -> Model:
    if REAL:
        pytest.skip("looks into the model")
    path = tmp_path / "machine"
    fake_gpu.create_machine(path, SPECS)
    return Model(path, native_build)


@pytest.fixture
def environment(request: pytest.FixtureRequest) -> dict[str, str]:
    """The variables that lead a process to the GPU under test."""
    if REAL:
        return {}
    machine: Model = request.getfixturevalue("model")
    return machine.environment


@pytest.fixture
def spawn(environment: dict[str, str]) -> Iterator[Callable[..., CudaProcess]]:
    """Start CUDA processes; keyword arguments are further variables. They end with the test."""
    with ExitStack() as stack:

        def start(**variables: str) -> CudaProcess:
            return stack.enter_context(CudaProcess({**environment, **variables}))

        yield start


@pytest.fixture
def cuda(spawn: Callable[..., CudaProcess]) -> CudaProcess:
    """One process with the primary context of the first device."""
    return spawn().start()

"""The GPU that probes are tested on: a modelled one of 256 MiB."""

import os
from pathlib import Path

import pytest

from fracgpu.native import fake_gpu
from fracgpu.native.fake_gpu import FakeGpuSpec
from fracgpu.native.libraries import NativeLibraries

MIB = 1 << 20


@pytest.fixture
def machine(tmp_path: Path) -> Path:
    path = tmp_path / "machine"
    spec = FakeGpuSpec(
        uuid="GPU-6c1f2a34-0b1c-4d2e-8f30-415263748596",
        name='NVIDIA "quoted" \\ GPU',
        memory_bytes=256 * MIB,
        context_bytes=16 * MIB,
    )
    fake_gpu.create_machine(path, [spec])
    return path


@pytest.fixture
def environment(machine: Path, native_build: NativeLibraries) -> dict[str, str]:
    return {
        **os.environ,
        "FRACGPU_FAKE_GPU": str(machine),
        "LD_LIBRARY_PATH": str(native_build.fake_cuda.parent),
    }

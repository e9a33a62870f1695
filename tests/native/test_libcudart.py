"""How CUDA's runtime gets at the driver; `test_routes.py` asks every question that it can ask.

NVIDIA's libcudart itself insists on NVIDIA's own driver, which the model does not pretend to be; here it must be told
the same through the shim as without it.
"""

import sys
from pathlib import Path
from typing import Any

import pytest

from fracgpu.native.libraries import NativeLibraries

GPU = "GPU-11111111-2222-3333-4444-555555555555"

START_RUNTIME = """
import ctypes, sys
runtime = ctypes.CDLL(sys.argv[1])
count = ctypes.c_int(-1)
print(runtime.cudaGetDeviceCount(ctypes.byref(count)), count.value)
print(runtime.cudaMalloc(ctypes.byref(ctypes.c_void_p()), ctypes.c_size_t(1 << 20)))
"""


def runtimes() -> list[Path]:
    site = [Path(entry) for entry in sys.path if entry.endswith("site-packages")]
    return sorted(path for entry in site for path in entry.glob("nvidia/*/lib/libcudart.so.1[23]"))


@pytest.mark.parametrize("runtime", runtimes(), ids=lambda path: path.name)
def test_runtime_is_told_the_same_as_without_the_shim(
    prefix: Any, runtime: Path, native_build: NativeLibraries
) -> None:
    prefix.allocate(GPU, 1024)
    command = (sys.executable, "-c", START_RUNTIME, runtime)
    through_shim = prefix.run(*command)
    prefix.use("libcuda.so.1", native_build.fake_cuda)
    assert through_shim.stdout == prefix.run(*command).stdout
    assert through_shim.stderr == ""


def test_both_runtimes_are_tested() -> None:
    assert {path.name for path in runtimes()} == {"libcudart.so.12", "libcudart.so.13"}

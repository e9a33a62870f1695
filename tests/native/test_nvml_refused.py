"""What changes a GPU for everybody does not reach the driver."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from fracgpu.native.libraries import NativeLibraries

ROOT = Path(__file__).resolve().parent.parent.parent
GPU = "GPU-11111111-2222-3333-4444-555555555555"
NO_PERMISSION, FUNCTION_NOT_FOUND = 4, 13

# Every function of the list is called with a GPU and zeros; then what the setters of the model would have changed.
CALLER = """
import ctypes, json, sys
shim = ctypes.CDLL("libnvidia-ml.so.1")
driver = ctypes.CDLL(sys.argv[1])
assert shim.nvmlInit_v2() == 0
gpu = ctypes.c_void_p()
assert shim.nvmlDeviceGetHandleByIndex_v2(0, ctypes.byref(gpu)) == 0
codes = {}
for name in sys.argv[2:]:
    codes[name] = [hasattr(driver, name), getattr(shim, name)(gpu, *[ctypes.c_void_p(0)] * 5)]
mode = ctypes.c_uint()
assert shim.nvmlDeviceGetPersistenceMode(gpu, ctypes.byref(mode)) == 0
print(json.dumps([codes, mode.value]))
"""


def call_all(prefix: Any, refused: tuple[str, ...]) -> tuple[dict[str, tuple[bool, int]], int]:
    driver = prefix.directory / "driver" / "libnvidia-ml.so.1"
    result = prefix.run(sys.executable, "-c", CALLER, driver, *refused)
    codes, mode = json.loads(result.stdout)
    return {name: tuple(code) for name, code in codes.items()}, mode


@pytest.fixture
def forwarding(tmp_path: Path, native_build: NativeLibraries) -> Path:
    """The shim that refuses nothing."""
    target = tmp_path / "forwarding" / "libnvidia-ml.so.1"
    make = ["make", "--no-print-directory", "-C", str(ROOT / "native"), "mutant-standalone-nvml"]
    arguments = [f"OUT={native_build.directory}", "HOOK=refused", f"MUTANT={target}"]
    subprocess.run([*make, *arguments], env={**os.environ, "PYTHON": sys.executable}, check=True)
    return target


def test_refused_functions_are_refused_and_change_nothing(prefix: Any, refused: tuple[str, ...]) -> None:
    prefix.allocate(GPU, 1024)
    codes, persistence_mode = call_all(prefix, refused)
    assert set(codes) == set(refused)
    for name, (known, code) in codes.items():
        assert code == (NO_PERMISSION if known else FUNCTION_NOT_FOUND), name
    assert persistence_mode == 1


def test_each_of_them_would_reach_the_driver_otherwise(prefix: Any, refused: tuple[str, ...], forwarding: Path) -> None:
    prefix.allocate(GPU, 1024)
    prefix.use("libnvidia-ml.so.1", forwarding)
    codes, persistence_mode = call_all(prefix, refused)
    assert [name for name, (_, code) in codes.items() if code == NO_PERMISSION] == []
    assert persistence_mode == 0


def test_a_thread_may_still_be_bound_to_processors(prefix: Any) -> None:
    """NvmlDeviceSetCpuAffinity is about the calling thread, and so it is the driver's to answer."""
    prefix.allocate(GPU, 1024)
    codes, _ = call_all(prefix, ("nvmlDeviceSetCpuAffinity", "nvmlDeviceClearCpuAffinity"))
    assert {code for _, code in codes.values()} == {3}

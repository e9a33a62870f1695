"""The shims work on every driver from CUDA 11.8 on: each hook on each driver that has the function."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from fracgpu.native.libraries import NativeLibraries
from tests.native.drivers import DRIVERS, Driver

LIMIT_MIB = 1024
NOT_FOUND = 500
GPUS = ("GPU-11111111-2222-3333-4444-555555555555", "GPU-66666666-7777-8888-9999-aaaaaaaaaaaa")
# A hook that works on drivers without the function, by another one.
STANDS_ON = {"cuGetProcAddress_v2_ptsz": "cuGetProcAddress_v2"}
OTHERS = [driver for driver in DRIVERS if not driver.is_default]

CALL_WITH_NULLS = """
import ctypes, sys
shim = ctypes.CDLL("libcuda.so.1")
shim.cuInit(0)
print(getattr(shim, sys.argv[1])(*[None] * 8))
"""


@pytest.fixture
def on_driver(prefix: Any, native_build: NativeLibraries) -> Callable[[Driver], None]:
    """Put a driver in the place of the default one."""

    def installed(driver: Driver) -> None:
        for library in ("libcuda.so.1", "libnvidia-ml.so.1"):
            prefix.use(f"driver/{library}", driver.directory(native_build) / library)

    return installed


@pytest.mark.parametrize("driver", OTHERS, ids=str)
def test_hook_does_its_work_on_every_driver(
    prefix: Any, program: Callable[[str], Path], on_driver: Callable[[Driver], None], driver: Driver, hook: Any
) -> None:
    on_driver(driver)
    states = [prefix.allocate(gpu, LIMIT_MIB) for gpu in GPUS]
    if driver.has(STANDS_ON.get(hook.symbol, hook.symbol)):
        prefix.run(program("behave"), hook.symbol, LIMIT_MIB, *states, expect=0)
        return
    answer = prefix.run(sys.executable, "-c", CALL_WITH_NULLS, hook.symbol).stdout
    assert int(answer) == NOT_FOUND
    pytest.skip(f"{hook.symbol} is newer than CUDA {driver}: the shim answers {NOT_FOUND}")


@pytest.mark.parametrize("driver", DRIVERS, ids=str)
def test_what_a_driver_lacks_is_absent(driver: Driver, native_build: NativeLibraries, hooks: tuple[Any, ...]) -> None:
    """What the tests above skip is what dlsym does not find."""
    script = "import ctypes, sys; lib = ctypes.CDLL(sys.argv[1]); print(*[n for n in sys.argv[2:] if hasattr(lib, n)])"
    names = [hook.symbol for hook in hooks if hook.library == "cuda"]
    command = [sys.executable, "-c", script, str(driver.directory(native_build) / "libcuda.so.1"), *names]
    found = subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()
    assert found == [name for name in names if driver.has(name)]

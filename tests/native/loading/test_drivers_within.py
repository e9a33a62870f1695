"""A driver that calls what it exports, and NVML, from inside its own functions: nothing waits, nothing counts twice."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from fracgpu.native.libraries import NativeLibraries
from fracgpu.native.state_file import read_state_file
from tests.native.loading.conftest import HERE
from tests.native.loading.setting import CAPPED, LIMIT_MIB, MIB

STUB = HERE.parents[2] / "native" / "interceptor" / "stub.c"


@pytest.fixture
def restless(capped: Any, tmp_path: Path, native_build: NativeLibraries) -> Any:
    """The prefix on that driver, which has the model behind it as the shims have theirs: by an absolute DT_NEEDED."""
    compiler = [sys.executable, "-m", "ziglang", "cc", "-target", "x86_64-linux-gnu.2.17", "-shared", "-fPIC", "-O2"]
    stub, driver = tmp_path / "stub.so", tmp_path / "restless.so"
    subprocess.run([*compiler, f"-Wl,-soname,{native_build.fake_cuda}", str(STUB), "-o", str(stub)], check=True)
    link = ["-Wl,-soname,libcuda.so.1", "-Wl,--no-as-needed", str(stub), "-Wl,-z,lazy", "-ldl", "-o", str(driver)]
    subprocess.run([*compiler, str(HERE / "restless.c"), *link], check=True)
    capped.use("driver/libcuda.so.1", driver)
    return capped


@pytest.mark.parametrize("way", ["needed", "soname", "default", "deepbind", "namespace", "routed"])
def test_a_restless_driver(restless: Any, ways: Callable[[str], Path], way: str) -> None:
    result = restless.run(ways(way), way)
    assert result.stdout.splitlines() == CAPPED
    snapshot = read_state_file(restless.state)
    assert (snapshot.peak_bytes, snapshot.refusals, snapshot.processes) == (LIMIT_MIB * MIB, 1, ())

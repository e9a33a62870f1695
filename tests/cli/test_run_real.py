"""fracgpu run on the machine's own GPU and driver, with FRACGPU_TEST_GPU=real; elsewhere there is nothing to show."""

import os
import re
import subprocess

import pytest

from fracgpu.native.libraries import NativeLibraries
from tests.cli.machine import COMMAND, DEADLINE_SECONDS, MIB, json_lines

pytestmark = pytest.mark.skipif(
    os.environ.get("FRACGPU_TEST_GPU") != "real", reason="needs a GPU of this machine: set FRACGPU_TEST_GPU=real"
)


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    environment = {key: value for key, value in os.environ.items() if key != "CUDA_VISIBLE_DEVICES"}
    return subprocess.run(
        [*COMMAND, "run", *arguments],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=DEADLINE_SECONDS,
    )


def test_a_real_gpu_is_limited(native_build: NativeLibraries) -> None:
    result = run("--memory", "2Gi", "--", str(native_build.probe("fracgpu-climb")), "driver", "256")
    assert result.returncode == 0, result.stdout + result.stderr
    refused = json_lines(result.stdout)[-1]
    assert (refused["event"], refused["name"]) == ("refused", "CUDA_ERROR_OUT_OF_MEMORY")
    assert 1024 * MIB < refused["allocated_bytes"] <= 2048 * MIB
    assert refused["total_bytes"] == 2048 * MIB
    assert re.search(r"fracgpu run: GPU 0: peak \d+Mi of 2048Mi, [1-9]\d* refused", result.stderr)


def test_nvidia_smi_shows_the_limit() -> None:
    query = ["nvidia-smi", "--query-gpu=memory.total", "--format=csv,noheader,nounits", "--id=0"]
    result = run("--memory", "3000Mi", "--quiet", "--", *query)
    assert (result.returncode, result.stdout.strip()) == (0, "3000"), result.stderr

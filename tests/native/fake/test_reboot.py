"""The machine is rebooted: the GPUs are the same, and nothing of what ran before is left."""

import json
import subprocess
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from fracgpu.native.fake_gpu import FakeMachineInUse, reboot_machine, set_lost
from tests.native.fake.cuda_process import MIB, CudaProcess

Spawn = Callable[..., CudaProcess]
CONTEXT = 16 * MIB


def nvml_count(model: Any) -> int:
    done = subprocess.run(
        [str(model.libraries.probe("fracgpu-view"))], env=model.environment, capture_output=True, text=True, check=True
    )
    return len(json.loads(done.stdout)["nvml"]["devices"])


def test_a_reboot_leaves_the_gpus_and_nothing_else(spawn: Spawn, model: Any) -> None:
    new = [model.usage(index) for index in range(2)]
    processes = [spawn().start(device) for device in (0, 0, 1)]
    for process in processes:
        process.allocate(100 * MIB)
    set_lost(model.path, new[1].uuid, lost=True)
    for process in processes:
        process.kill()
    peaks = [model.usage(index).peak_used_bytes for index in range(2)]
    assert peaks == [2 * (CONTEXT + 100 * MIB), CONTEXT + 100 * MIB]
    inode = model.path.stat().st_ino
    reboot_machine(model.path)
    assert [model.usage(index) for index in range(2)] == new
    # The dead left their accounts in the file, and a slot that is taken next must not begin with them.
    assert not any(model.path.read_bytes()[-1024 * 256 :])
    # Bind mounts of the file lead to the machine that was rebooted.
    assert model.path.stat().st_ino == inode
    assert nvml_count(model) == 2


def test_a_rebooted_machine_works(spawn: Spawn, model: Any) -> None:
    spawn().start().kill()
    reboot_machine(model.path)
    cuda = spawn().start()
    cuda.allocate(cuda.memory_info()[0])
    assert model.usage() == replace(
        model.usage(), used_bytes=1024 * MIB, peak_used_bytes=1024 * MIB, memory_bytes=1024 * MIB
    )


@pytest.mark.parametrize("device", [0, 1])
def test_a_machine_is_not_rebooted_under_its_processes(spawn: Spawn, model: Any, device: int) -> None:
    cuda = spawn().start(device)
    cuda.allocate(100 * MIB)
    before = model.path.read_bytes()
    with pytest.raises(
        FakeMachineInUse, match=rf"machine {model.path}: is in use by {cuda.pid} .*; end these processes"
    ):
        reboot_machine(model.path)
    assert model.path.read_bytes() == before
    cuda.kill()
    reboot_machine(model.path)
    assert model.usage(device).peak_used_bytes == 0

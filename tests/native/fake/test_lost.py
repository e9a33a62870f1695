"""A GPU of the model that falls off the bus while a process has an NVML session, and comes back."""

import json
import os
import subprocess
import sys
from typing import Any

import pytest

from fracgpu.native.fake_gpu import FakeMachineInvalid, set_lost

# One line of input, one look: the UUIDs by index, or the code of the error.
WATCHER = """
import json, sys, pynvml as n
n.nvmlInit()
handle = n.nvmlDeviceGetHandleByIndex(0)
def asked(function, *arguments):
    try:
        return function(*arguments)
    except n.NVMLError as error:
        return error.value
for _ in sys.stdin:
    by_index = [asked(lambda i: n.nvmlDeviceGetUUID(n.nvmlDeviceGetHandleByIndex(i)), i) for i in range(2)]
    print(json.dumps([n.nvmlDeviceGetCount(), by_index, asked(n.nvmlDeviceGetName, handle)]), flush=True)
"""
GPU_IS_LOST = 15


def test_a_lost_gpu_is_lost_in_sessions_that_are_open_and_comes_back(model: Any) -> None:
    watcher = subprocess.Popen(
        [sys.executable, "-c", WATCHER],
        env={**os.environ, **model.environment},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert watcher.stdin is not None
    assert watcher.stdout is not None

    def look() -> Any:
        watcher.stdin.write("\n")  # type: ignore[union-attr]
        watcher.stdin.flush()  # type: ignore[union-attr]
        return json.loads(watcher.stdout.readline())  # type: ignore[union-attr]

    first, second = (model.usage(index).uuid for index in range(2))
    with watcher:
        whole = look()
        assert whole[:2] == [2, [first, second]]
        set_lost(model.path, first, lost=True)
        assert look() == [2, [GPU_IS_LOST, second], GPU_IS_LOST]
        set_lost(model.path, first, lost=False)
        assert look() == whole
        watcher.stdin.close()


def test_a_gpu_that_is_not_there_can_not_be_lost(model: Any) -> None:
    with pytest.raises(FakeMachineInvalid, match=r"modelled GPU GPU-x: is not in machine"):
        set_lost(model.path, "GPU-x", lost=True)

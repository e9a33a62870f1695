"""Many threads of one process, all spellings at once: no charge is lost or invented."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from fracgpu.native.fake_gpu import read_usage
from fracgpu.native.state_file import read_state_file

GPU = "GPU-11111111-2222-3333-4444-555555555555"
MIB = 1 << 20


@pytest.mark.parametrize("limits", [(512,), (200, 312)], ids=["one allocation", "two allocations of one GPU"])
def test_nothing_is_left_when_all_is_freed(
    prefix: Any, program: Callable[[str], Path], limits: tuple[int, ...]
) -> None:
    states = [prefix.allocate(GPU, limit, name=str(limit)) for limit in limits]
    prefix.run(program("threads"), str(max(limits)), states[0])
    assert read_usage(prefix.machine)[0].peak_used_bytes <= sum(limits) * MIB
    for state, limit in zip(states, limits, strict=True):
        snapshot = read_state_file(state)
        assert 0 < snapshot.peak_bytes <= limit * MIB
        assert snapshot.used_bytes == 0

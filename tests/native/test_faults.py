"""When the driver fails, dawdles, or takes the process with it, the account stays what the device holds.

For every hook that takes memory or gives it back; `programs/faults.c` says what is looked at.
"""

import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

LIMIT_MIB = 1024
GPU = "GPU-11111111-2222-3333-4444-555555555555"

# Not resets and green contexts, and no stalls: the other threads of the program would lose their context.
CONTEXTS = [f"cuCtx{call}" for call in ("Create", "Create_v2", "Create_v3", "Create_v4", "Attach", "Detach", "Destroy")]
CONTEXTS += ["cuCtxDestroy_v2", *(f"cuDevicePrimaryCtx{call}" for call in ("Retain", "Release", "Release_v2"))]

Run = Callable[..., Any]


@pytest.fixture
def run_faults(prefix: Any, program: Callable[[str], Path], tmp_path: Path) -> Run:
    state = prefix.allocate(GPU, LIMIT_MIB)
    prefix.env["FRACGPU_FAKE_FAULTS"] = str(tmp_path / "faults")

    def run(symbol: str, mode: str, *, expect: int = 0) -> Any:
        driver = prefix.directory / "driver" / "libcuda.so.1"
        return prefix.run(program("faults"), symbol, mode, driver, tmp_path / "faults", state, expect=expect)

    return run


@pytest.mark.parametrize("mode", ["fail", "assist", "stall"])
def test_hook_keeps_the_account_true(run_faults: Run, taker: Any, mode: str) -> None:
    run_faults(taker.symbol, mode)


def test_killed_inside_the_driver_a_process_leaves_nothing(run_faults: Run, taker: Any) -> None:
    run_faults(taker.symbol, "kill", expect=-signal.SIGKILL)
    run_faults("cuMemAlloc_v2", "all")


@pytest.mark.parametrize("mode", ["fail", "assist"])
@pytest.mark.parametrize("symbol", CONTEXTS)
def test_contexts_keep_the_account_true(run_faults: Run, symbol: str, mode: str) -> None:
    run_faults(symbol, mode)

"""No call that the shim makes of its own breaks another thread's capture, and what the program calls breaks it as ever.

The model allows the function under test during a capture, or not even that, and nothing else that could be unsafe. The
program is the one that judges each hook; around each call of the function another thread captures in global mode.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

LIMIT_MIB = 1024
GPUS = ("GPU-11111111-2222-3333-4444-555555555555", "GPU-66666666-7777-8888-9999-aaaaaaaaaaaa")
# Before cuInit nothing can be captured. The check of the other one compares its address.
BEFORE = {"cuInit", "cuGetProcAddress_v2"}
# Their checks end the primary context, and with it the stream that the other thread captures.
END_THE_CONTEXT = {
    "cuDevicePrimaryCtxRetain",
    "cuDevicePrimaryCtxRelease",
    "cuDevicePrimaryCtxRelease_v2",
    "cuDevicePrimaryCtxReset",
    "cuDevicePrimaryCtxReset_v2",
    "cuGreenCtxCreate",
    "cuGreenCtxDestroy",
}
# They look something up.
ALWAYS_SAFE = {
    "cuDeviceTotalMem",
    "cuDeviceTotalMem_v2",
    "cuGetProcAddress",
    "cuGetProcAddress_v2",
    "cuGetProcAddress_v2_ptsz",
}

Run = Callable[[str, str, str], Any]


@pytest.fixture
def run(prefix: Any, program: Callable[[str], Path]) -> Run:
    """Run the check of a symbol among captures: (symbol, what is to become of them, what the model allows)."""

    def started(symbol: str, fate: str, allowed: str) -> Any:
        states = [prefix.allocate(gpu, LIMIT_MIB) for gpu in GPUS]
        variables = [f"BEHAVE_CAPTURE={fate}", f"FRACGPU_FAKE_CAPTURE_ALLOWS={allowed}"]
        return prefix.run("env", *variables, program("behave"), symbol, LIMIT_MIB, *states, expect=0)

    return started


def test_captures_survive_what_the_shim_adds(run: Run, hook: Any) -> None:
    if hook.library != "cuda" or hook.symbol in BEFORE | END_THE_CONTEXT:
        pytest.skip("not beside a capture")
    run(hook.symbol, "survives", hook.symbol)


def test_captures_are_not_shielded_from_the_program(run: Run, hook: Any) -> None:
    if hook.library != "cuda" or hook.symbol in BEFORE | END_THE_CONTEXT | ALWAYS_SAFE:
        pytest.skip("never unsafe")
    run(hook.symbol, "breaks", "")

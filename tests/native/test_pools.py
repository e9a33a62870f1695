"""Pools in unusual places and numbers, and what threads can do to each other's pools."""

import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from fracgpu.native.fake_gpu import read_usage

ROOT = Path(__file__).resolve().parent.parent.parent
GPUS = ("GPU-11111111-2222-3333-4444-555555555555", "GPU-66666666-7777-8888-9999-aaaaaaaaaaaa")
MIB = 1 << 20


@pytest.mark.parametrize("case", ["foreign", "many"])
def test_no_pool_escapes_the_limit(prefix: Any, program: Callable[[str], Path], case: str) -> None:
    for gpu in GPUS:
        prefix.allocate(gpu, 1024 if case == "many" or gpu == GPUS[0] else 256)
    prefix.run(program("pool_corners"), case)
    first, second = read_usage(prefix.machine)
    assert first.peak_used_bytes <= 1024 * MIB
    assert second.peak_used_bytes <= 256 * MIB
    assert (first if case == "many" else second).peak_used_bytes >= 192 * MIB, "nothing was tested"


@pytest.mark.parametrize("case", ["destroyed", "not destroyed", "in charge", "shrunk"])
def test_threads_meet_in_a_pool(c_compiler: tuple[str, ...], tmp_path: Path, case: str) -> None:
    """Each order of events is forced by a driver that lets the other thread act in the middle of a call."""
    program = tmp_path / "pool_races"
    native = ROOT / "native"
    names = ["capture_mode", "charge", "devices", "graph_memory", "pool_lifetime", "pool_record"]
    names += ["pools", "residue", "share_mark", "sharing"]
    sources = [native / "interceptor" / f"{name}.c" for name in names]
    sources += sorted((native / "limiter").glob("*.c"))
    main = Path(__file__).parent / "programs" / "pool_races.c"
    flags = ["-std=c11", "-D_GNU_SOURCE", "-O1", "-Wall", "-Wextra", "-Werror"]
    subprocess.run([*c_compiler, *flags, str(main), *map(str, sources), "-o", str(program)], check=True)
    result = subprocess.run([program, case, tmp_path], capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr

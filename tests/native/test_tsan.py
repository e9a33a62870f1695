"""Threads under ThreadSanitizer: the limiter's units, and the CUDA shim with all spellings at once."""

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from fracgpu.native.libraries import NativeLibraries

ROOT = Path(__file__).resolve().parent.parent.parent
PROGRAMS = Path(__file__).parent / "programs"
GPU = "GPU-11111111-2222-3333-4444-555555555555"
TSAN = ("gcc", "-fsanitize=thread", "-Wno-tsan", "-D_GNU_SOURCE", "-g", "-O1")
# Each of them starts threads.
UNITS = ("page_threads", "gate", "table_threads", "double_free", "reserve")


@pytest.fixture(scope="session")
def steady(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, ...]:
    """What a program is started with: older runtimes do not bear as much randomization as some kernels do."""
    directory = tmp_path_factory.mktemp("steady")
    (directory / "nothing.c").write_text("int main(void) { return 0; }")
    program = directory / "nothing"
    subprocess.run([*TSAN, directory / "nothing.c", "-o", program], check=True)
    for start in ((), ("setarch", "-R")):
        if subprocess.run([*start, program], capture_output=True, check=False).returncode == 0:
            return start
    pytest.skip("this kernel gives ThreadSanitizer no address space that it can use")


@pytest.fixture(scope="session")
def built(native_build: NativeLibraries) -> Path:
    target = native_build.directory / "tsan"
    command = ["make", "--no-print-directory", "-C", str(ROOT / "native"), f"OUT={native_build.directory}"]
    subprocess.run(
        [*command, "tsan-interceptor", str(target / "limiter_units")],
        env={**os.environ, "PYTHON": sys.executable},
        check=True,
        capture_output=True,
    )
    return target


@pytest.mark.parametrize("name", UNITS)
def test_unit(built: Path, steady: tuple[str, ...], tmp_path: Path, name: str) -> None:
    command: list[str | Path] = [*steady, built / "limiter_units", name, tmp_path]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr


def test_planted_race_is_found(steady: tuple[str, ...], tmp_path: Path) -> None:
    """A table whose keys are stored as if nobody else looked."""
    limiter = shutil.copytree(ROOT / "native" / "limiter", tmp_path / "limiter")
    (tmp_path / "abi").symlink_to(ROOT / "native" / "abi")
    table = (limiter / "table.c").read_text()
    atomic = "__atomic_store_n(&bucket->keys[index], key, __ATOMIC_RELEASE)"
    assert atomic in table
    (limiter / "table.c").write_text(table.replace(atomic, "bucket->keys[index] = key"))
    sources = [*sorted(limiter.glob("*.c")), *sorted(PROGRAMS.glob("limiter_units*.c"))]
    program = tmp_path / "units"
    subprocess.run([*TSAN, f"-I{limiter}", *sources, "-lpthread", "-o", program], check=True)
    result = subprocess.run([*steady, program, "table_threads", tmp_path], capture_output=True, text=True, check=False)
    assert result.returncode != 0
    assert "data race" in result.stderr


@pytest.mark.parametrize("limits", [(512,), (200, 312)], ids=["one allocation", "two allocations of one GPU"])
def test_all_spellings_at_once(
    prefix: Any, built: Path, steady: tuple[str, ...], tmp_path: Path, limits: tuple[int, ...]
) -> None:
    states = [prefix.allocate(GPU, limit, name=str(limit)) for limit in limits]
    prefix.use("libcuda.so.1", built / "standalone" / "libcuda.so.1")
    program = tmp_path / "threads"
    flags = ["-Wno-unused-variable", "-ldl", "-lpthread"]
    subprocess.run([*TSAN, PROGRAMS / "threads.c", "-o", program, *flags], check=True)
    run: Callable[..., Any] = prefix.run
    run(*steady, program, str(max(limits)), states[0])

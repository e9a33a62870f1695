"""The shims once more, built by another compiler and under AddressSanitizer and UndefinedBehaviorSanitizer."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from fracgpu.native.libraries import NativeLibraries

ROOT = Path(__file__).resolve().parent.parent.parent
PROGRAMS = Path(__file__).parent / "programs"
GPUS = ("GPU-11111111-2222-3333-4444-555555555555", "GPU-66666666-7777-8888-9999-aaaaaaaaaaaa")
SANITIZERS = ("-fsanitize=address,undefined", "-fno-sanitize-recover=all")


@pytest.fixture(scope="session")
def sanitized_libraries(native_build: NativeLibraries) -> Path:
    command = ["make", "--no-print-directory", "-C", str(ROOT / "native"), f"OUT={native_build.directory}"]
    subprocess.run(
        [*command, "sanitize-interceptor"],
        env={**os.environ, "PYTHON": sys.executable},
        check=True,
        capture_output=True,
    )
    return native_build.directory / "sanitize" / "standalone"


@pytest.fixture(scope="session")
def sanitized_program(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    directory = tmp_path_factory.mktemp("sanitized")

    def compiled(name: str) -> Path:
        target = directory / name
        if not target.exists():
            sources = [PROGRAMS / f"{name}.c", *sorted(PROGRAMS.glob(f"{name}_*.c"))]
            flags = ["-D_GNU_SOURCE", "-g", "-Wno-unused-variable", *SANITIZERS]
            subprocess.run(["gcc", *flags, *map(str, sources), "-o", str(target), "-ldl", "-lpthread"], check=True)
        return target

    return compiled


@pytest.fixture
def sanitized_prefix(prefix: Any, sanitized_libraries: Path) -> Any:
    for name in ("libcuda.so.1", "libnvidia-ml.so.1"):
        prefix.use(name, sanitized_libraries / name)
    # The programs end with memory allocated on purpose.
    prefix.env["ASAN_OPTIONS"] = "detect_leaks=0"
    return prefix


def test_hook_under_sanitizers(sanitized_prefix: Any, sanitized_program: Callable[[str], Path], hook: Any) -> None:
    states = [sanitized_prefix.allocate(gpu, 1024) for gpu in GPUS]
    sanitized_prefix.run(sanitized_program("behave"), hook.symbol, "1024", *states)


def test_threads_under_sanitizers(sanitized_prefix: Any, sanitized_program: Callable[[str], Path]) -> None:
    sanitized_prefix.run(sanitized_program("threads"), "512", sanitized_prefix.allocate(GPUS[0], 512))

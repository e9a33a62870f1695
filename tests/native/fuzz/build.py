"""Builds the fuzz target: gcc with AddressSanitizer and UBSan, as everywhere, and libFuzzer from Debian's package.

Only libFuzzer's own archive is taken from there, pinned by its hash, unpacked into the cache and not installed; no
clang is needed.
"""

from __future__ import annotations

import platform
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from tests.cluster.build.command import run
from tests.cluster.build.errors import BuildError
from tests.native.loading.debian import Package, unpacked

ROOT: Final = Path(__file__).resolve().parents[3]
LIMITER: Final = ROOT / "native" / "limiter"
_HERE: Final = Path(__file__).parent
_RUNTIME: Final = Package(
    "l/llvm-toolchain-14/libclang-rt-14-dev_14.0.6-12_amd64.deb",
    "180c4d27fdc912e2e5de21f383aff07d27e1745c34591a41e4d12ff70be54764",
)
_FLAGS: Final = ("-std=c11", "-D_GNU_SOURCE", "-O1", "-g", "-fno-omit-frame-pointer", "-Wall", "-Wextra", "-Werror")
_SANITIZERS: Final = ("-fsanitize=address,undefined", "-fno-sanitize-recover=all")
# Blocks for coverage, comparisons so that libFuzzer learns the numbers that matter.
_COVERAGE: Final = "-fsanitize-coverage=trace-pc,trace-cmp"


class FuzzerUnavailable(BuildError):
    """There is no libFuzzer for this machine."""


def build_target(directory: Path, limiter: Path = LIMITER) -> Path:
    """Build the target from the limiter's sources in `limiter` and return the program.

    Raises:
        FuzzerUnavailable: this is no x86-64
        BuildError: libFuzzer cannot be fetched, or something does not compile

    """
    if platform.machine() != "x86_64":
        raise FuzzerUnavailable("libFuzzer", "is here for x86-64 only", remedy="run the fuzz target on x86-64")
    (library,) = unpacked(_RUNTIME).rglob("libclang_rt.fuzzer-x86_64.a")
    include = f"-I{limiter}"
    objects = [
        _compile(source, directory, [include, _COVERAGE])
        for source in (*sorted(limiter.glob("*.c")), _HERE / "target.c")
    ]
    objects.append(_compile(_HERE / "coverage.c", directory, []))
    program = directory / "target"
    (standard,) = run(["gcc", "-print-file-name=libstdc++.so.6"]).split()
    wrapped = "-Wl,--wrap=__sanitizer_cov_trace_pc"
    run(["gcc", *_SANITIZERS, wrapped, *objects, library, standard, "-lm", "-lpthread", "-ldl", "-o", program])
    return program


def _compile(source: Path, directory: Path, flags: Sequence[str]) -> Path:
    target = directory / f"{source.stem}.o"
    run(["gcc", *_FLAGS, *_SANITIZERS, *flags, "-c", source, "-o", target])
    return target

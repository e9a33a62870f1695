"""What the built shims are, read from their ELF headers: nothing that could keep a program from starting.

Those for arm64 too: the same sources, the same floor, the same rules.
"""

import re
import subprocess
from pathlib import Path
from typing import Any

import pytest

from fracgpu.native.libraries import NativeLibraries

SHIMS = {
    ("container", "cuda"): "/run/fracgpu/driver/libcuda.so.1",
    ("container", "nvml"): "/run/fracgpu/driver/libnvidia-ml.so.1",
    ("standalone", "cuda"): "$ORIGIN/driver/libcuda.so.1",
    ("standalone", "nvml"): "$ORIGIN/driver/libnvidia-ml.so.1",
}


BUILDS = {"x86_64": "native_build", "arm64": "arm64_build"}
CASES = [(machine, *key) for machine in BUILDS for key in SHIMS]


@pytest.fixture(params=CASES, ids=["-".join(case) for case in CASES])
def shim(request: pytest.FixtureRequest) -> tuple[Path, str, str]:
    machine, build, library = request.param
    libraries: NativeLibraries = request.getfixturevalue(BUILDS[machine])
    path: Path = getattr(libraries, f"{build}_{library}")
    return path, library, SHIMS[build, library]


def readelf(path: Path, *options: str) -> str:
    return subprocess.run(
        ["readelf", "-W", *options, path], check=True, capture_output=True, text=True, errors="replace"
    ).stdout


def dynamic(path: Path, tag: str) -> list[str]:
    return re.findall(rf"\({tag}\).*\[(.*)\]", readelf(path, "-d"))


def test_takes_the_drivers_place_and_needs_the_real_one(shim: tuple[Path, str, str]) -> None:
    path, library, real = shim
    assert dynamic(path, "SONAME") == [{"cuda": "libcuda.so.1", "nvml": "libnvidia-ml.so.1"}[library]]
    needed = dynamic(path, "NEEDED")
    assert needed[0] == real
    assert set(needed[1:]) <= {"libc.so.6", "libdl.so.2"}


def test_exports_the_hooks_and_nothing_else(
    shim: tuple[Path, str, str], hooks: tuple[Any, ...], refused: tuple[str, ...]
) -> None:
    path, library, _ = shim
    defined = re.findall(r"(?:FUNC|OBJECT|NOTYPE)\s+GLOBAL\s+DEFAULT\s+\d+ (\S+)", readelf(path, "--dyn-syms"))
    expected = [hook.symbol for hook in hooks if hook.library == library]
    assert sorted(defined) == sorted([*expected, *(refused if library == "nvml" else ())])


def test_needs_no_glibc_newer_than_2_17(shim: tuple[Path, str, str]) -> None:
    versions = set(re.findall(r"@(GLIBC_\w*(?:\.\d+)*)", readelf(shim[0], "--dyn-syms")))
    assert versions
    assert all(re.fullmatch(r"GLIBC_\d+(\.\d+)+", version) for version in versions), "a private symbol"
    assert max(tuple(map(int, version[6:].split("."))) for version in versions) <= (2, 17)


def test_runs_nothing_when_it_is_loaded(shim: tuple[Path, str, str]) -> None:
    headers = readelf(shim[0], "-d", "-S", "-l")
    assert not re.search(r"INIT_ARRAY|FINI_ARRAY|\(INIT\)|\(FINI\)|\.ctors|\.dtors", headers)
    assert re.search(r"GNU_STACK\s+\S+ \S+ \S+ \S+ \S+ RW ", headers), "an executable stack"
    assert "TEXTREL" not in headers
    assert "NODELETE" in headers


def test_no_shim_prints_exits_signals_or_locks(shim: tuple[Path, str, str]) -> None:
    undefined = set(re.findall(r"UND (\w+)", readelf(shim[0], "--dyn-syms")))
    allowed = {"open", "close", "read", "pread", "pread64", "fcntl", "mmap", "mmap64", "munmap", "madvise", "syscall"}
    allowed |= {"open64", "openat", "openat64", "fstatfs", "fstatfs64"}
    allowed |= {"getpid", "nanosleep", "clock_gettime", "dlopen", "dlsym", "__errno_location"}
    allowed |= {"__fxstat", "__fxstat64", "__xstat", "__xstat64", "memcpy", "memcmp", "memset", "memchr", "memmove"}
    allowed |= {"strlen", "strnlen", "strcmp", "strncmp", "strchr", "strrchr", "bcmp"}
    if "standalone" in str(shim[0]):
        allowed |= {"environ", "__environ", "dladdr", "strspn"}
    weak = {"__cxa_finalize", "__gmon_start__", "_ITM_deregisterTMCloneTable", "_ITM_registerTMCloneTable"}
    assert undefined - weak <= allowed


def test_container_build_knows_no_environment(native_build: NativeLibraries) -> None:
    for path in (native_build.container_cuda, native_build.container_nvml):
        assert "FRACGPU_" not in readelf(path, "-p", ".rodata")
        assert not re.search(r"getenv|environ", readelf(path, "--dyn-syms"))
    assert "FRACGPU_ALLOCATION_" in readelf(native_build.standalone_cuda, "-p", ".rodata")


@pytest.mark.parametrize("build", BUILDS.values(), ids=BUILDS)
def test_strict_modes_libraries_bring_nothing_with_them(build: str, request: pytest.FixtureRequest) -> None:
    """They are in every process of a container: no other library, nothing that runs, next to nothing to relocate."""
    libraries: NativeLibraries = request.getfixturevalue(build)
    main, alias = libraries.preload_cuda, libraries.preload_alias
    assert (dynamic(main, "SONAME"), dynamic(main, "NEEDED")) == (["libcuda.so.1"], [])
    assert (dynamic(alias, "SONAME"), dynamic(alias, "NEEDED")) == (["libcuda.so"], ["libcuda.so.1"])
    assert set(re.findall(r"UND (\w+)", readelf(main, "--dyn-syms"))) == {"dlopen", "dlsym", "__errno_location"}
    assert re.findall(r"WEAK\s+DEFAULT\s+UND (\w+)", readelf(main, "--dyn-syms")) != []
    assert "GLOBAL DEFAULT  UND" not in readelf(main, "--dyn-syms")
    assert len(re.findall(r"R_\w+", readelf(main, "-r"))) <= 6
    for path in (main, alias):
        assert not re.search(r"INIT_ARRAY|FINI_ARRAY|\(INIT\)|\(FINI\)|TEXTREL", readelf(path, "-d", "-S"))
        assert re.search(r"GNU_STACK\s+\S+ \S+ \S+ \S+ \S+ RW ", readelf(path, "-l"))


def test_strict_mode_knows_what_drivers_export(native_build: NativeLibraries) -> None:
    """A name that it lacks is one that a program does not find in strict mode."""
    defined = set(re.findall(r"FUNC\s+GLOBAL\s+DEFAULT\s+\d+ (\S+)", readelf(native_build.preload_cuda, "--dyn-syms")))
    exported = readelf(native_build.fake_cuda, "--dyn-syms")
    assert set(re.findall(r"FUNC\s+GLOBAL\s+DEFAULT\s+\d+ (cu\w+)", exported)) <= defined

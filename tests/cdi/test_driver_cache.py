"""The remembered driver: never another answer than a new search, whatever happens to the files."""

import os
import shutil
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from fracgpu.cdi import driver_cache
from fracgpu.cdi.discovery import DriverFiles, discover_driver
from fracgpu.cdi.driver_cache import DriverCache
from fracgpu.cdi.errors import DriverFilesMissing
from fracgpu.cdi.roots import DriverRoot, find_driver_root
from tests.cdi.conftest import elf_library

CUDA, NVML = elf_library("libcuda.so.1"), elf_library("libnvidia-ml.so.1")
Populate = Callable[[dict[str, bytes | str]], Path]
VERSION, NEW = "580.65.06", "590.10"
DIRECTORY = "usr/lib64"
HOUR_NS = 3_600_000_000_000


def later() -> int:
    """An hour from now: everything on disk has settled."""
    return time.time_ns() + HOUR_NS


def pair(version: str = VERSION) -> dict[str, bytes | str]:
    return {
        f"{DIRECTORY}/libcuda.so.{version}": CUDA,
        f"{DIRECTORY}/libcuda.so.1": f"libcuda.so.{version}",
        f"{DIRECTORY}/libnvidia-ml.so.{version}": NVML,
    }


@pytest.fixture
def aged_root(driver_root: Populate) -> Populate:
    """A driver root whose files and directories are an hour old, so that the clock's ticks hide no change."""

    def populate(files: dict[str, bytes | str]) -> Path:
        root = driver_root(files)
        for path in (root, *root.rglob("*")):
            os.utime(path, ns=(0, time.time_ns() - HOUR_NS), follow_symlinks=False)
        return root

    return populate


@pytest.fixture
def searches(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    seen: list[Path] = []

    def counted(root: Path, *, trail: set[Path]) -> DriverFiles:
        seen.append(root)
        return discover_driver(root, trail=trail)

    monkeypatch.setattr(driver_cache, "discover_driver", counted)
    return seen


def test_an_unchanged_driver_is_looked_for_once(aged_root: Populate, searches: list[Path]) -> None:
    root = aged_root({**pair(), "lib64": "usr/lib64"})
    cache = DriverCache(clock_ns=later)
    first = cache.discover(root)
    assert [cache.discover(root) for _ in range(3)] == [first] * 3
    assert searches == [root]
    assert first == discover_driver(root)


def test_what_changed_a_moment_ago_is_looked_at_again(driver_root: Populate, searches: list[Path]) -> None:
    root = driver_root(pair())
    cache = DriverCache()
    cache.discover(root)
    cache.discover(root)
    assert len(searches) == 2


def new_driver(root: Path) -> None:
    (root / DIRECTORY / "libcuda.so.1").unlink()
    for name, content in pair(NEW).items():
        path = root / name
        path.symlink_to(content) if isinstance(content, str) else path.write_bytes(content)


def overwrite(root: Path) -> None:
    path = root / DIRECTORY / f"libcuda.so.{VERSION}"
    path.write_bytes(elf_library("libcuda.so.2"))


def add_optional(root: Path) -> None:
    shutil.copy2("/proc/self/exe", root / DIRECTORY / f"libnvidia-nvvm.so.{VERSION}")


def add_directory(root: Path) -> None:
    first = root / "usr/lib/x86_64-linux-gnu"
    first.mkdir(parents=True)
    for name in ("libcuda.so", "libnvidia-ml.so"):
        (root / DIRECTORY / f"{name}.{VERSION}").rename(first / f"{name}.{VERSION}")


def add_smi(root: Path) -> None:
    (root / "usr/bin").mkdir(parents=True)
    (root / "usr/bin/nvidia-smi").write_bytes(b"smi")


def swap_directory(root: Path) -> None:
    (root / DIRECTORY).rename(root / "usr/elsewhere")
    (root / DIRECTORY).symlink_to("elsewhere")


CHANGES = [new_driver, overwrite, add_optional, add_directory, add_smi, swap_directory]


@pytest.mark.parametrize("change", CHANGES, ids=[change.__name__ for change in CHANGES])
def test_every_change_is_seen(aged_root: Populate, searches: list[Path], change: Callable[[Path], None]) -> None:
    root = aged_root(pair())
    cache = DriverCache(clock_ns=later)
    cache.discover(root)
    change(root)
    assert cache.discover(root) == discover_driver(root)
    assert len(searches) == 2


def test_a_link_far_from_the_libraries_is_followed_anew(aged_root: Populate, searches: list[Path]) -> None:
    """Debian's /etc/alternatives: what changes is neither in a library directory nor a library."""
    both = pair() | pair(NEW)
    root = aged_root(
        {
            **{name: content for name, content in both.items() if isinstance(content, bytes)},
            f"{DIRECTORY}/libcuda.so.1": "/etc/alternatives/libcuda",
            "etc/alternatives/libcuda": f"/{DIRECTORY}/libcuda.so.{VERSION}",
        }
    )
    cache = DriverCache(clock_ns=later)
    assert cache.discover(root).version == VERSION
    link = root / "etc/alternatives/libcuda"
    link.unlink()
    link.symlink_to(f"/{DIRECTORY}/libcuda.so.{NEW}")
    assert cache.discover(root).version == NEW


def test_a_driver_that_went_away_is_an_error_and_comes_back(aged_root: Populate) -> None:
    root = aged_root(pair())
    cache = DriverCache(clock_ns=later)
    cache.discover(root)
    path = root / DIRECTORY / f"libnvidia-ml.so.{VERSION}"
    path.unlink()
    for _ in range(2):
        with pytest.raises(DriverFilesMissing):
            cache.discover(root)
    path.write_bytes(NVML)
    assert cache.discover(root).nvml == path


def test_a_library_replaced_with_its_old_times_is_seen(aged_root: Populate, searches: list[Path]) -> None:
    root = aged_root(pair())
    path = root / DIRECTORY / f"libcuda.so.{VERSION}"
    cache = DriverCache(clock_ns=later)
    cache.discover(root)
    times = path.stat()
    while path.stat().st_ctime_ns == times.st_ctime_ns:
        path.write_bytes(CUDA)
        os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))
    cache.discover(root)
    assert len(searches) == 2


def test_the_root_is_remembered_too(aged_root: Populate, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    host = aged_root({**pair(), "dev/nvidiactl": b"", "run/nvidia/driver/usr/lib64/libc.so.6": b""})
    found: list[DriverRoot | None] = []

    def counted(host_root: Path, *, proc: Path, trail: set[Path]) -> DriverRoot | None:
        found.append(find_driver_root(host_root, proc=proc, trail=trail))
        return found[-1]

    monkeypatch.setattr(driver_cache, "find_driver_root", counted)
    cache = DriverCache(proc=tmp_path / "proc", clock_ns=later)
    assert cache.find(host) == cache.find(host) == found[0]
    assert len(found) == 1
    for name, content in pair(NEW).items():
        path = host / "run/nvidia/driver" / name
        path.symlink_to(content) if isinstance(content, str) else path.write_bytes(content)
    root = cache.find(host)
    assert root is not None
    assert (root.on_host, root.version) == (Path("/run/nvidia/driver"), NEW)


def test_another_kernel_module_is_another_question(aged_root: Populate, tmp_path: Path) -> None:
    other = {f"run/nvidia/driver/{name}": content for name, content in pair(NEW).items()}
    host = aged_root({**pair(), **other})
    module = tmp_path / "proc" / "driver" / "nvidia" / "version"
    module.parent.mkdir(parents=True)
    cache = DriverCache(proc=tmp_path / "proc", clock_ns=later)
    for version in (VERSION, NEW, VERSION):
        module.write_text(f"NVRM version: NVIDIA UNIX x86_64 Kernel Module  {version}  Tue Apr 1\n")
        root = cache.find(host)
        assert root is not None
        assert root.version == version


def test_a_host_without_a_driver_is_remembered_until_it_has_one(aged_root: Populate, tmp_path: Path) -> None:
    host = aged_root({"usr/lib64/libc.so.6": b""})
    cache = DriverCache(proc=tmp_path / "proc", clock_ns=later)
    assert cache.find(host) is None
    for name, content in pair().items():
        path = host / name
        path.symlink_to(content) if isinstance(content, str) else path.write_bytes(content)
    assert cache.find(host) is not None

"""The prefix that replaces mounts: a translation of the same edits."""

from pathlib import Path

import pytest

from fracgpu.driver.names import allocation_hash
from fracgpu.native.libraries import NativeLibraries
from fracgpu.sim.node.cdi_registry import ContainerEdits, Mount
from fracgpu.sim.node.standalone import build_prefix

LIBRARY_DIR = "/usr/lib/x86_64-linux-gnu"


@pytest.fixture
def libraries(tmp_path: Path) -> NativeLibraries:
    for build in ("container", "standalone"):
        for name in ("libcuda.so.1", "libnvidia-ml.so.1"):
            path = tmp_path / "native" / build / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(f"{build} {name}")
    return NativeLibraries(tmp_path / "native")


def links(prefix: Path) -> dict[str, str]:
    return {str(path.relative_to(prefix)): str(path.readlink()) for path in prefix.rglob("*") if path.is_symlink()}


def test_mounts_become_links(tmp_path: Path, libraries: NativeLibraries) -> None:
    store = tmp_path / "store"
    store.mkdir()
    (store / "libcuda.so.1").write_bytes(libraries.container_cuda.read_bytes())
    edits = ContainerEdits(
        mounts=(
            Mount(str(store / "libcuda.so.1"), f"{LIBRARY_DIR}/libcuda.so.1"),
            Mount(str(store / "libcuda.so.1"), f"{LIBRARY_DIR}/libcuda.so.580.65.06"),
            Mount("/driver/libcuda.so.580.65.06", "/run/fracgpu/driver/libcuda.so.1"),
            Mount("/host/run/a1/config", "/run/fracgpu/allocations/a1/config"),
            Mount("/host/run/a1/state", "/run/fracgpu/allocations/a1/state"),
        )
    )
    prefix = tmp_path / "prefix"
    env = build_prefix(prefix, edits, libraries)
    assert env == {"LD_LIBRARY_PATH": str(prefix), "FRACGPU_PREFIX": str(prefix)}
    short = allocation_hash("a1")
    assert links(prefix) == {
        "libcuda.so.1": str(libraries.standalone_cuda),
        "driver/libcuda.so.1": "/driver/libcuda.so.580.65.06",
        f"allocations/{short}/config": "/host/run/a1/config",
        f"allocations/{short}/state": "/host/run/a1/state",
    }


def test_a_library_that_is_not_ours_stays_what_it_is(tmp_path: Path, libraries: NativeLibraries) -> None:
    other = tmp_path / "other.so"
    other.write_text("the driver's own")
    prefix = tmp_path / "prefix"
    build_prefix(prefix, ContainerEdits(mounts=(Mount(str(other), f"{LIBRARY_DIR}/libcuda.so.1"),)), libraries)
    assert links(prefix) == {"libcuda.so.1": str(other)}


def test_the_prefix_is_made_again_at_every_start(tmp_path: Path, libraries: NativeLibraries) -> None:
    prefix = tmp_path / "prefix"
    for state in ("/old/state", "/new/state"):
        mount = Mount(state, "/run/fracgpu/allocations/a1/state")
        build_prefix(prefix, ContainerEdits(mounts=(mount,)), libraries)
    assert list(links(prefix).values()) == ["/new/state"]

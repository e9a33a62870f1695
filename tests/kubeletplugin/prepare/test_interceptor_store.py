from pathlib import Path

import pytest

from fracgpu.kubeletplugin.errors import InterceptorDamaged
from fracgpu.kubeletplugin.prepare.files import Files
from fracgpu.kubeletplugin.prepare.interceptor_store import InterceptorStore
from fracgpu.native.libraries import library_digest


@pytest.fixture
def libraries(tmp_path: Path) -> tuple[Path, ...]:
    paths = tuple(tmp_path / "built" / name for name in ("libcuda.so.1", "libnvidia-ml.so.1"))
    for path in paths:
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(path.name.encode())
    return paths


@pytest.fixture
def store(tmp_path: Path) -> InterceptorStore:
    (tmp_path / "lib").mkdir()
    return InterceptorStore(tmp_path / "lib", Files())


def test_the_set_lies_under_its_digest(store: InterceptorStore, libraries: tuple[Path, ...]) -> None:
    digest = store.install(libraries)
    assert digest == library_digest(libraries)
    assert store.digests() == {digest}
    for library in libraries:
        stored = store.path(digest) / library.name
        assert stored.read_bytes() == library.read_bytes()
        assert stored.stat().st_mode & 0o777 == 0o755


def test_installing_again_touches_nothing(store: InterceptorStore, libraries: tuple[Path, ...]) -> None:
    digest = store.install(libraries)
    before = [(path.stat().st_ino, path.stat().st_mtime_ns) for path in sorted(store.path(digest).iterdir())]
    assert store.install(libraries) == digest
    assert [(path.stat().st_ino, path.stat().st_mtime_ns) for path in sorted(store.path(digest).iterdir())] == before


def test_a_new_build_lies_beside_the_old_one(store: InterceptorStore, libraries: tuple[Path, ...]) -> None:
    old = store.install(libraries)
    inode = (store.path(old) / "libcuda.so.1").stat().st_ino
    libraries[0].write_bytes(b"new")
    new = store.install(libraries)
    assert store.digests() == {old, new}
    assert (store.path(old) / "libcuda.so.1").stat().st_ino == inode


@pytest.mark.parametrize("damage", ["altered", "removed"])
def test_a_damaged_set_is_refused_and_never_written_over(
    store: InterceptorStore, libraries: tuple[Path, ...], damage: str
) -> None:
    stored = store.path(store.install(libraries)) / "libcuda.so.1"
    if damage == "altered":
        stored.write_bytes(b"other")
    else:
        stored.unlink()
    with pytest.raises(InterceptorDamaged, match="does not have the content that its name promises; drain this node"):
        store.install(libraries)
    assert not stored.exists() or stored.read_bytes() == b"other"


def test_what_a_killed_plugin_left_is_replaced(
    store: InterceptorStore, libraries: tuple[Path, ...], tmp_path: Path
) -> None:
    left = tmp_path / "lib" / f".{library_digest(libraries)}.tmp"
    left.mkdir()
    (left / "libcuda.so.1").write_bytes(b"half")
    assert store.digests() == frozenset()
    digest = store.install(libraries)
    assert (store.path(digest) / "libcuda.so.1").read_bytes() == b"libcuda.so.1"
    assert not left.exists()


def test_a_full_disk_leaves_nothing(tmp_path: Path, libraries: tuple[Path, ...]) -> None:
    class Full(Files):
        def publish_directory(self, temporary: Path, final: Path) -> None:  # noqa: ARG002
            raise OSError(28, "No space left on device")

    store = InterceptorStore(tmp_path / "lib", Full())
    with pytest.raises(OSError, match="No space left"):
        store.install(libraries)
    assert list((tmp_path / "lib").iterdir()) == []

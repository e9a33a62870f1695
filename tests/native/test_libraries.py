"""Where the built libraries are found, and what names their directory on a node."""

from pathlib import Path

import pytest

from fracgpu.native.errors import NativeLibrariesMissing
from fracgpu.native.libraries import DIRECTORY_ENV, NativeLibraries, library_digest


def test_every_artefact_is_built(native_build: NativeLibraries) -> None:
    paths = [native_build.container_cuda, native_build.container_nvml, native_build.standalone_cuda]
    paths += [native_build.standalone_nvml, native_build.fake_cuda, native_build.fake_nvml]
    assert len({path.read_bytes() for path in paths}) == len(paths)


def test_the_environment_comes_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, native_build: NativeLibraries
) -> None:
    monkeypatch.setenv(DIRECTORY_ENV, str(tmp_path))
    with pytest.raises(NativeLibrariesMissing, match=str(tmp_path)):
        NativeLibraries.locate()
    (tmp_path / "container").mkdir()
    (tmp_path / "container" / "libcuda.so.1").write_bytes(b"x")
    assert NativeLibraries.locate().container_cuda == tmp_path / "container" / "libcuda.so.1"


def test_a_missing_artefact_names_the_remedy(tmp_path: Path) -> None:
    with pytest.raises(NativeLibrariesMissing, match="make native"):
        NativeLibraries(tmp_path).probe("fracgpu-climb")


def test_digest_depends_on_names_and_contents_alone(tmp_path: Path) -> None:
    one, two = tmp_path / "one", tmp_path / "two"
    one.write_bytes(b"1")
    two.write_bytes(b"2")
    digest = library_digest([one, two])
    assert len(digest) == 64
    assert digest == library_digest([two, one])
    (tmp_path / "moved").mkdir()
    assert digest == library_digest([one.rename(tmp_path / "moved" / "one"), two])
    two.write_bytes(b"3")
    assert digest != library_digest([tmp_path / "moved" / "one", two])
    with pytest.raises(NativeLibrariesMissing, match="can not be read"):
        library_digest([one])

"""An image is an OCI layout whose every reference leads to the bytes that it names."""

import hashlib
import json
import tarfile
from pathlib import Path
from typing import Any

import pytest

from tests.cluster.build.oci import ImageConfig, write_image

NAME = "fracgpu.test/thing:e2e"


@pytest.fixture
def layers(tmp_path: Path) -> list[Path]:
    paths = [tmp_path / "lower.tar", tmp_path / "upper.tar"]
    for path in paths:
        with tarfile.open(path, "w") as tar:
            tar.addfile(tarfile.TarInfo(path.stem))
    return paths


def files(path: Path) -> dict[str, bytes]:
    with tarfile.open(path) as tar:
        names = tar.getnames()
        assert len(names) == len(set(names))
        return {name: file.read() for name in names if (file := tar.extractfile(name))}


def resolve(content: dict[str, bytes], descriptor: dict[str, Any]) -> bytes:
    """Follow a descriptor; check digest and size on the way."""
    algorithm, _, digest = descriptor["digest"].partition(":")
    data = content[f"blobs/{algorithm}/{digest}"]
    assert (algorithm, digest, descriptor["size"]) == ("sha256", hashlib.sha256(data).hexdigest(), len(data))
    return data


def test_every_reference_leads_to_its_bytes(tmp_path: Path, layers: list[Path]) -> None:
    write_image(tmp_path / "image", NAME, layers, ImageConfig())
    content = files(tmp_path / "image")
    assert json.loads(content["oci-layout"]) == {"imageLayoutVersion": "1.0.0"}
    (named,) = json.loads(content["index.json"])["manifests"]
    assert named["annotations"]["io.containerd.image.name"] == NAME
    manifest = json.loads(resolve(content, named))
    assert [resolve(content, layer) for layer in manifest["layers"]] == [path.read_bytes() for path in layers]
    config = json.loads(resolve(content, manifest["config"]))
    assert (config["architecture"], config["os"]) == ("amd64", "linux")
    # Layers are not compressed: the id of what is in them is that of the file.
    assert config["rootfs"] == {"type": "layers", "diff_ids": [layer["digest"] for layer in manifest["layers"]]}
    blobs = 1 + 1 + len(layers)
    assert len(content) == len(["oci-layout", "index.json"]) + blobs


def test_the_configuration_says_how_it_starts(tmp_path: Path, layers: list[Path]) -> None:
    config = ImageConfig(entrypoint=["/run"], command=["a b", "c"], environment={"A": "1", "B": "x=y"})
    write_image(tmp_path / "image", NAME, layers, config)
    content = files(tmp_path / "image")
    manifest = json.loads(resolve(content, json.loads(content["index.json"])["manifests"][0]))
    assert json.loads(resolve(content, manifest["config"]))["config"] == {
        "Entrypoint": ["/run"],
        "Cmd": ["a b", "c"],
        "Env": ["A=1", "B=x=y"],
        "WorkingDir": "/",
    }


def test_a_layer_that_comes_twice_is_stored_once(tmp_path: Path, layers: list[Path]) -> None:
    write_image(tmp_path / "image", NAME, [layers[0], layers[0]], ImageConfig())
    content = files(tmp_path / "image")
    manifest = json.loads(resolve(content, json.loads(content["index.json"])["manifests"][0]))
    assert len(manifest["layers"]) == 2
    assert len([name for name in content if name.startswith("blobs/")]) == 3


def test_the_same_image_is_the_same_bytes(tmp_path: Path, layers: list[Path]) -> None:
    for name in ("one", "two"):
        write_image(tmp_path / name, NAME, layers, ImageConfig(command=["x"]))
    assert (tmp_path / "one").read_bytes() == (tmp_path / "two").read_bytes()

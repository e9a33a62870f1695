"""Images without a registry: an OCI image layout in one tar, as `ctr images import` takes it.

Source: OCI image specification 1.1, image-layout.md, config.md and annotations.md. Layers are plain tars: compressing
them would cost more than it saves on the one machine where they are made, read and thrown away.
"""

from __future__ import annotations

import hashlib
import io
import json
import tarfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

_MEDIA = "application/vnd.oci.image"
_INDEX, _MANIFEST, _CONFIG, _LAYER = (
    f"{_MEDIA}.index.v1+json",
    f"{_MEDIA}.manifest.v1+json",
    f"{_MEDIA}.config.v1+json",
    f"{_MEDIA}.layer.v1.tar",
)
# containerd looks for the first, the specification defines the second.
_NAME_ANNOTATIONS = ("io.containerd.image.name", "org.opencontainers.image.ref.name")
_CHUNK = 1 << 20


@dataclass(frozen=True)
class ImageConfig:
    """How a container of the image is started unless its pod says otherwise."""

    entrypoint: Sequence[str] = ()
    command: Sequence[str] = ()
    environment: Mapping[str, str] = field(default_factory=dict)
    working_directory: str = "/"


@dataclass(frozen=True)
class _Blob:
    """A file of the layout, known by its hash; its bytes lie in a file or are given."""

    content: Path | bytes
    digest: str
    size: int

    def descriptor(self, media_type: str) -> dict[str, Any]:
        return {"mediaType": media_type, "digest": self.digest, "size": self.size}


def write_image(target: Path, name: str, layers: Sequence[Path], config: ImageConfig) -> None:
    """Write an image as a tar with an OCI layout in it.

    Args:
        target: the file to write
        name: the image's full name, with a tag
        layers: uncompressed tars, the lowest first; a file `.wh.NAME` in one removes NAME from those below
        config: how its containers start

    Raises:
        OSError: a layer cannot be read, or the target not written

    """
    layer_blobs = [_of_file(path) for path in layers]
    config_blob = _of_json(_config(config, layer_blobs))
    manifest_blob = _of_json(
        {
            "schemaVersion": 2,
            "mediaType": _MANIFEST,
            "config": config_blob.descriptor(_CONFIG),
            "layers": [blob.descriptor(_LAYER) for blob in layer_blobs],
        }
    )
    named = manifest_blob.descriptor(_MANIFEST) | {"annotations": dict.fromkeys(_NAME_ANNOTATIONS, name)}
    index = _of_json({"schemaVersion": 2, "mediaType": _INDEX, "manifests": [named]})
    layout = _of_json({"imageLayoutVersion": "1.0.0"})
    blobs = {blob.digest: blob for blob in (*layer_blobs, config_blob, manifest_blob)}
    with tarfile.open(target, "w") as tar:
        _add(tar, "oci-layout", layout)
        _add(tar, "index.json", index)
        for digest, blob in blobs.items():
            _add(tar, f"blobs/{digest.replace(':', '/')}", blob)


def _config(config: ImageConfig, layers: Sequence[_Blob]) -> dict[str, Any]:
    """Return the image configuration. Its layers are not compressed, so their ids are their digests."""
    return {
        "architecture": "amd64",
        "os": "linux",
        "config": {
            "Entrypoint": list(config.entrypoint),
            "Cmd": list(config.command),
            "Env": [f"{name}={value}" for name, value in config.environment.items()],
            "WorkingDir": config.working_directory,
        },
        "rootfs": {"type": "layers", "diff_ids": [blob.digest for blob in layers]},
    }


def _of_json(content: Mapping[str, Any]) -> _Blob:
    data = json.dumps(content, sort_keys=True, separators=(",", ":")).encode()
    return _Blob(data, f"sha256:{hashlib.sha256(data).hexdigest()}", len(data))


def _of_file(path: Path) -> _Blob:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK):
            digest.update(chunk)
    return _Blob(path, f"sha256:{digest.hexdigest()}", path.stat().st_size)


def _add(tar: tarfile.TarFile, name: str, blob: _Blob) -> None:
    entry = tarfile.TarInfo(name)
    entry.size = blob.size
    entry.mode = 0o644
    if isinstance(blob.content, bytes):
        tar.addfile(entry, io.BytesIO(blob.content))
    else:
        with blob.content.open("rb") as file:
            tar.addfile(entry, file)

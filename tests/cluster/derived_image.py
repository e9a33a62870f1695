"""Another version of an image that the runtime has already: the same layers, and one more on top.

The archive holds only what is new. The layers below are in the runtime's store, which is where it looks for them.
"""

from __future__ import annotations

import hashlib
import io
import json
import tarfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

_LAYER: Final = "application/vnd.oci.image.layer.v1.tar"
_NAME_ANNOTATION: Final = "io.containerd.image.name"


def write_derived_image(target: Path, base: Path, name: str, files: Mapping[str, bytes]) -> None:
    """Write an image `name` to `target` that is the one in `base` (a tar with an OCI layout) with `files` changed.

    `files` are contents by path in the image; owner root, mode 0755. Raises OSError, KeyError for a `base` of another
    kind.
    """
    layer = _tar(files)
    with tarfile.open(base) as archive:
        index = _read(archive, "index.json")
        manifest = _read(archive, _blob(index["manifests"][0]["digest"]))
        config = _read(archive, _blob(manifest["config"]["digest"]))
    config["rootfs"]["diff_ids"].append(_digest(layer))
    manifest["layers"].append(_descriptor(layer, _LAYER))
    manifest["config"] |= _descriptor(_bytes(config), manifest["config"]["mediaType"])
    named = _descriptor(_bytes(manifest), manifest["mediaType"]) | {"annotations": {_NAME_ANNOTATION: name}}
    blobs = (layer, _bytes(config), _bytes(manifest))
    contents = {_blob(_digest(blob)): blob for blob in blobs}
    contents["index.json"] = _bytes(index | {"manifests": [named]})
    contents["oci-layout"] = _bytes({"imageLayoutVersion": "1.0.0"})
    target.write_bytes(_tar(contents))


def read_from_image(archive: Path, suffix: str) -> tuple[str, bytes]:
    """Return path and content of the file in an image whose path ends with `suffix`; raises FileNotFoundError."""
    with tarfile.open(archive) as outer:
        index = _read(outer, "index.json")
        manifest = _read(outer, _blob(index["manifests"][0]["digest"]))
        # A higher layer wins.
        for layer in reversed(manifest["layers"]):
            with tarfile.open(fileobj=outer.extractfile(_blob(layer["digest"]))) as inner:
                for member in inner:
                    if member.isfile() and member.name.endswith(suffix):
                        content = inner.extractfile(member)
                        assert content is not None
                        return member.name.removeprefix("./"), content.read()
    raise FileNotFoundError(f"{archive}: no layer has a file {suffix}")


def _tar(files: Mapping[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for path, content in files.items():
            entry = tarfile.TarInfo(path)
            entry.size, entry.mode = len(content), 0o755
            tar.addfile(entry, io.BytesIO(content))
    return buffer.getvalue()


def _read(archive: tarfile.TarFile, path: str) -> dict[str, Any]:
    file = archive.extractfile(path)
    assert file is not None
    document: dict[str, Any] = json.load(file)
    return document


def _bytes(document: Mapping[str, Any]) -> bytes:
    return json.dumps(document, sort_keys=True).encode()


def _digest(content: bytes) -> str:
    return f"sha256:{hashlib.sha256(content).hexdigest()}"


def _descriptor(content: bytes, media_type: str) -> dict[str, Any]:
    return {"mediaType": media_type, "digest": _digest(content), "size": len(content)}


def _blob(digest: str) -> str:
    return f"blobs/{digest.replace(':', '/')}"

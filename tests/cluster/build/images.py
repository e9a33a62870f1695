"""The images of the e2e tier, by name: which layers each has and how its containers start."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from tests.cluster.build import minimal, oci, plugin, workload
from tests.cluster.build.cache import Cache
from tests.cluster.build.debian import Debian
from tests.cluster.build.key import Inputs
from tests.cluster.build.layers import Layer

_PATH: Final = {"PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"}
_STAY: Final = oci.ImageConfig(entrypoint=["/pause"], environment=_PATH)
_SHELL: Final = oci.ImageConfig(command=["/bin/sh"], environment=_PATH)
# What NVIDIA's images with newer libraries than a host may have set.
_COMPAT: Final = oci.ImageConfig(
    command=["/bin/sh"], environment={**_PATH, "LD_LIBRARY_PATH": f"/{workload.COMPAT_DIRECTORY}"}
)
_PLUGIN: Final = oci.ImageConfig(entrypoint=["fracgpu"], environment=_PATH)


@dataclass(frozen=True)
class _Image:
    layers: Sequence[Layer]
    config: oci.ImageConfig


def image_name(short: str) -> str:
    """Return the full name of an image; `.test` is a domain that never exists, so nobody can fetch it (RFC 6761)."""
    return f"fracgpu.test/{short}:e2e"


def build(cache: Cache, debian: Debian) -> dict[str, Path]:
    """Return the archives of all images by their full names, made now unless the cache has them.

    Raises:
        BuildError: see the modules of the layers

    """
    return {image_name(short): _archive(cache, short, image) for short, image in _images(cache, debian).items()}


def _images(cache: Cache, debian: Debian) -> dict[str, _Image]:
    base = Layer(debian.layer, debian.key)
    pause, probes = minimal.pause(cache), workload.probes(cache)
    work = [base, workload.cuda(cache, debian), probes]
    libraries = {name: [minimal.glibc(cache, name), pause] for name in minimal.GLIBC_RELEASES}
    return {
        "pause": _Image([pause], _STAY),
        "workload": _Image(work, _SHELL),
        "compat": _Image([*work, workload.compat(cache)], _COMPAT),
        "no-ldconfig": _Image([*work, workload.no_ldconfig(cache)], _SHELL),
        "musl": _Image([minimal.musl(cache), pause], _STAY),
        **{name: _Image(layers, _STAY) for name, layers in libraries.items()},
        "plugin": _Image([base, plugin.dependencies(cache, debian), plugin.fracgpu(cache, debian)], _PLUGIN),
    }


def _archive(cache: Cache, short: str, image: _Image) -> Path:
    name, file = image_name(short), f"{short}.tar"
    inputs = Inputs().file(Path(oci.__file__)).text("name", name).text("config", repr(image.config))
    for number, layer in enumerate(image.layers):
        inputs.text(f"layer {number}", layer.key)

    def make(target: Path) -> None:
        oci.write_image(target / file, name, [layer.archive for layer in image.layers], image.config)

    return cache.get(f"image-{short}", inputs.key(), make) / file

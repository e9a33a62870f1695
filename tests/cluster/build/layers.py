"""What images are stacked from: tars in the cache, each made once for all images that have it."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from tests.cluster.build import tarball
from tests.cluster.build.cache import Cache
from tests.cluster.build.key import Inputs

_RECIPES: Final = (Path(__file__), Path(tarball.__file__))
_ARCHIVE: Final = "layer.tar"

Fill = Callable[[Path, Path], None]
"""Puts the layer's files below its first argument; the second is a directory for what is of no further use."""


@dataclass(frozen=True)
class Layer:
    """An uncompressed tar, and the key of what it was made of."""

    archive: Path
    key: str


def layer(cache: Cache, name: str, inputs: Inputs, fill: Fill) -> Layer:
    """Return a layer whose files belong to root, made now unless the cache has it.

    Args:
        cache: where it is kept
        name: of the artefact
        inputs: all that decides what `fill` does
        fill: makes the files

    Raises:
        Exception: whatever `fill` raises

    """
    for recipe in _RECIPES:
        inputs.file(recipe)
    key = inputs.key()

    def make(target: Path) -> None:
        tree, scratch = target / "tree", target / "scratch"
        tree.mkdir()
        scratch.mkdir()
        fill(tree, scratch)
        tarball.write_tar(target / _ARCHIVE, tree, plain=True)
        shutil.rmtree(tree)
        shutil.rmtree(scratch)

    return Layer(cache.get(name, key, make) / _ARCHIVE, key)


def copy_into(tree: Path, where: str, files: Iterable[Path]) -> None:
    """Copy files into a directory of a layer, which is made when it is missing.

    Raises:
        OSError: a file cannot be read

    """
    directory = tree / where
    directory.mkdir(parents=True, exist_ok=True)
    for file in files:
        shutil.copy(file, directory)

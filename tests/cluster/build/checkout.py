"""The parts of this checkout that images are made of."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Final

from tests.cluster.build.command import run

ROOT: Final = Path(__file__).resolve().parents[3]
NATIVE: Final = ROOT / "build" / "native"
"""Where the built native parts are: interceptor, model GPU, probes."""


def build_native() -> None:
    """Build the native parts, or nothing where they are up to date; `make native` does the same.

    Raises:
        CommandFailed: with what the compiler said

    """
    run(["make", "--silent", "-C", ROOT / "native", f"OUT={NATIVE}", f"PYTHON={sys.executable}"])


def probes() -> list[Path]:
    """Return the built probes: programs that use a GPU as real ones do."""
    return sorted((NATIVE / "probe").glob("fracgpu-*"))

"""What tests of several packages share: the C parts, built once per run."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from fracgpu.native.libraries import NativeLibraries

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="session")
def native_build() -> NativeLibraries:
    """Build native/ as `make native` does, so that a test never runs against yesterday's library."""
    subprocess.run(
        ["make", "--no-print-directory", "-C", str(ROOT / "native"), f"OUT={ROOT / 'build' / 'native'}"],
        env={**os.environ, "PYTHON": sys.executable},
        check=True,
        capture_output=True,
        text=True,
    )
    return NativeLibraries.locate()

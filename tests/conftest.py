"""What tests of several packages share: the C parts, built once per run; logging that is one test's own."""

import logging
import os
import subprocess
import sys
from collections.abc import Iterator
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


@pytest.fixture(autouse=True)
def _logging_of_one_test() -> Iterator[None]:
    """Take back what a test has configured: levels belong to the process, and other tests look at what is logged."""
    loggers = (logging.getLogger(), logging.getLogger("fracgpu"))
    levels = [logger.level for logger in loggers]
    handlers = list(loggers[0].handlers)
    yield
    for logger, level in zip(loggers, levels, strict=True):
        logger.setLevel(level)
    loggers[0].handlers[:] = [handler for handler in loggers[0].handlers if handler in handlers]

"""The options of ``fracgpu doctor``."""

from __future__ import annotations

import argparse
import os
from pathlib import Path


def add_doctor_options(parser: argparse.ArgumentParser) -> None:
    """Add the options to the parser of the subcommand."""
    add = parser.add_argument
    add("--json", action="store_true", help="print one JSON object instead of lines")
    add("--host-root", metavar="DIR", type=_directory, default=Path("/"), help="the host's root directory (default: /)")
    add("--kubelet-root", metavar="DIR", type=_absolute, help="the kubelet's directory on the host (default: found)")
    add("--kubeconfig", metavar="FILE", type=Path, help="ask this cluster too who else hands out its GPUs")


def _directory(text: str) -> Path:
    path = Path(text)
    # Answers where Path.is_dir would raise: an absurd name, a directory that may not be looked into.
    if not os.path.isdir(path):  # noqa: PTH112
        raise argparse.ArgumentTypeError(f"{text!r} is not a directory")
    return path.resolve()


def _absolute(text: str) -> Path:
    path = Path(text)
    if not path.is_absolute():
        raise argparse.ArgumentTypeError(f"{text!r} is not an absolute path")
    return path

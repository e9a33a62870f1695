"""The options of ``fracgpu lab``."""

from __future__ import annotations

import argparse
from pathlib import Path


def add_lab_options(parser: argparse.ArgumentParser) -> None:
    """Add the options to the parser of the subcommand."""
    parser.add_argument(
        "--allocator",
        choices=("controller", "scheduler"),
        default="controller",
        help="who gives GPUs to claims: fracgpu's controller (default) or kube-scheduler",
    )
    parser.add_argument("--bundle", metavar="FILE.tgz", type=_bundle_path, help="write all evidence into an archive")
    parser.add_argument("--fallback", action="store_true", help="run containers without namespaces of their own")
    parser.add_argument("-v", "--verbose", action="store_true", help="log what the embedded cluster does, to stderr")


def _bundle_path(text: str) -> Path:
    """Check early what would otherwise fail after all the work."""
    if not text:
        raise argparse.ArgumentTypeError("a file name is missing")
    path = Path(text)
    if not path.parent.is_dir():
        raise argparse.ArgumentTypeError(f"{path.parent} is not a directory")
    if path.is_dir():
        raise argparse.ArgumentTypeError(f"{path} is a directory")
    return path

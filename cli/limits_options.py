"""The options of ``fracgpu limits``."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Final

from fracgpu.cli.cluster_options import OUTPUT_JSON, OUTPUT_TEXT
from fracgpu.driver.errors import FracgpuError
from fracgpu.driver.quantity import quantity_bytes

_ALL_CORES: Final = 100


def add_limits_options(parser: argparse.ArgumentParser) -> None:
    """Add the options to the parser of the subcommand."""
    actions = parser.add_subparsers(dest="action", metavar="ACTION", required=True)
    _add(actions, "show", "what holds now", optional=True)
    change = _add(actions, "set", "lower the limits, or raise them again up to what the claim was prepared with")
    change.add_argument("--memory", metavar="QUANTITY", type=_memory, help="for example 6Gi")
    change.add_argument("--cores", metavar="PERCENT", type=_cores, help="of one GPU, 1 to 100")
    _add(actions, "suspend", "hold new work up: what allocates waits, nothing is taken away")
    _add(actions, "resume", "let it go on")


def _add(
    actions: argparse._SubParsersAction[argparse.ArgumentParser], name: str, help_text: str, *, optional: bool = False
) -> argparse.ArgumentParser:
    parser = actions.add_parser(name, help=help_text, description=f"{help_text}.", allow_abbrev=False)
    parser.add_argument(
        "name",
        metavar="NAME",
        nargs="?" if optional else None,
        help="NAMESPACE/CLAIM, UID of a claim, or id of an allocation" + ("; default: all" if optional else ""),
    )
    parser.add_argument("--state-dir", metavar="DIR", type=Path, default=Path("/var/lib/fracgpu"), help="the plugin's")
    parser.add_argument("--run-dir", metavar="DIR", type=Path, default=Path("/run/fracgpu"), help="the plugin's")
    parser.add_argument("-o", "--output", choices=(OUTPUT_TEXT, OUTPUT_JSON), default=OUTPUT_TEXT, help="default: text")
    return parser


def _memory(text: str) -> int:
    try:
        count = quantity_bytes(text)
    except FracgpuError as error:
        raise argparse.ArgumentTypeError(str(error)) from error
    if count <= 0:
        raise argparse.ArgumentTypeError(f"{text!r} is no memory at all; suspend holds everything up")
    return count


def _cores(text: str) -> int:
    if not text.isdecimal() or not 1 <= int(text) <= _ALL_CORES:
        raise argparse.ArgumentTypeError(f"{text!r} is not 1 to {_ALL_CORES} percent")
    return int(text)

"""The options of ``fracgpu run``."""

from __future__ import annotations

import argparse
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from fracgpu.driver.errors import QuantityInvalid
from fracgpu.driver.quantity import MIB, floor_mib, quantity_bytes

SEPARATOR = "--"
_MAX_CORES_PERCENT = 100
# Python refuses to turn texts of thousands of digits into numbers.
_COUNT = re.compile("[0-9]{1,18}")
_DESCRIPTION = """\
Run a command with a limit on GPU memory. What it allocates beyond the limit is refused with CUDA_ERROR_OUT_OF_MEMORY,
as on a card of that size, and NVML and nvidia-smi show the limit as the card. The limits hold for the command and all
that it starts, together."""
_EPILOG = """\
Exit status: that of the command (128+n when signal n ended it); 125: fracgpu itself could not run it; 126: the command
can not be executed; 127: it was not found; 2: wrong usage."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RunOptions:
    """What was asked for: `memory_bytes` whole MiB per GPU, `cores_percent` 0..100 of one GPU, `gpus` as written."""

    memory_bytes: int
    cores_percent: int
    gpus: tuple[str, ...]
    driver_root: Path | None
    quiet: bool
    command: tuple[str, ...]


def add_run_options(parser: argparse.ArgumentParser) -> None:
    """Add the options to the parser of the subcommand; the command, which follows after `--`, is split off before."""
    parser.usage = (
        "fracgpu run --memory SIZE [--cores N] [--gpu N|UUID]... [--driver-root DIR] [--quiet] -- COMMAND ..."
    )
    parser.description = _DESCRIPTION
    parser.epilog = _EPILOG
    add = parser.add_argument
    add("--memory", metavar="SIZE", type=_memory, required=True, help="limit per GPU, as in Kubernetes: 2Gi, 1500Mi")
    add("--cores", metavar="N", type=_cores, default=0, help="percent of one GPU, 0..100; noted, not enforced yet")
    add(
        "--gpu",
        metavar="N|UUID",
        action="append",
        default=[],
        help="the GPU, as nvidia-smi -L shows it; more than once for several (default: CUDA_VISIBLE_DEVICES, or GPU 0)",
    )
    add("--driver-root", metavar="DIR", type=_directory, help="where the NVIDIA driver is (default: found)")
    add("--quiet", action="store_true", help="print nothing but errors")


def run_options(parsed: argparse.Namespace, command: Sequence[str]) -> RunOptions:
    """Return the parsed options together with the command that followed them."""
    return RunOptions(
        memory_bytes=parsed.memory,
        cores_percent=parsed.cores,
        gpus=tuple(parsed.gpu),
        driver_root=parsed.driver_root,
        quiet=parsed.quiet,
        command=tuple(command),
    )


def split_command(arguments: Sequence[str]) -> tuple[list[str], list[str]]:
    """Return the arguments before the first `--` and those after it (none when there is no `--`)."""
    if SEPARATOR not in arguments:
        return list(arguments), []
    place = list(arguments).index(SEPARATOR)
    return list(arguments[:place]), list(arguments[place + 1 :])


def _memory(text: str) -> int:
    if text.endswith("%"):
        raise argparse.ArgumentTypeError(f"{text!r} is a share of a card; give an amount, as 2Gi")
    try:
        exact = quantity_bytes(text)
    except QuantityInvalid as error:
        raise argparse.ArgumentTypeError(f"{error.subject} {error.what}; give an amount, as 2Gi") from error
    if exact < MIB:
        raise argparse.ArgumentTypeError(f"{text!r} is less than 1Mi, which leaves nothing to run with")
    return floor_mib(exact)


def _cores(text: str) -> int:
    if not _COUNT.fullmatch(text) or int(text) > _MAX_CORES_PERCENT:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole percentage from 0 to {_MAX_CORES_PERCENT}")
    return int(text)


def _directory(text: str) -> Path:
    path = Path(text)
    # Answers where Path.is_dir would raise: an absurd name, a directory that may not be looked into.
    if not os.path.isdir(path):  # noqa: PTH112
        raise argparse.ArgumentTypeError(f"{text!r} is not a directory")
    return path.resolve()

"""The options of ``fracgpu migrate``."""

from __future__ import annotations

import argparse
from dataclasses import dataclass

from fracgpu.controller.convert.options import ConvertOptions, ShareDefault
from fracgpu.driver.errors import QuantityInvalid
from fracgpu.driver.quantity import MIB, ceil_mib, floor_mib, quantity_bytes

STANDARD_STREAM = "-"


@dataclass(frozen=True, slots=True, kw_only=True)
class MigrateOptions:
    """A checked command line. `files` are files, directories or `-`; `output` is a file or `-`."""

    files: tuple[str, ...]
    output: str
    recursive: bool
    convert: ConvertOptions


def add_migrate_options(parser: argparse.ArgumentParser) -> None:
    """Add the options to the parser of the subcommand."""
    parser.add_argument(
        "-f",
        "--filename",
        action="append",
        required=True,
        metavar="FILE",
        help="YAML or JSON file, directory, or - for standard input; may be given several times",
    )
    parser.add_argument("-R", "--recursive", action="store_true", help="read directories with all below them")
    parser.add_argument(
        "-o", "--output", default=STANDARD_STREAM, metavar="FILE", help="where to write; - is the default"
    )
    parser.add_argument(
        "--allocator",
        choices=("controller", "scheduler"),
        default="controller",
        help="who allocates claims in the cluster: fracgpu's controller (default) or kube-scheduler",
    )
    parser.add_argument(
        "--cards",
        type=_cards,
        default=(),
        metavar="NAME=MEMORY,...",
        help="the GPUs of the cluster and their memory, preferred first; for percentages with --allocator scheduler",
    )
    parser.add_argument(
        "--share-default",
        type=_share,
        metavar="MEMORY[,CORES]",
        help="what a GPU without an amount becomes, as 8Gi or 25%%,30; without it a whole GPU",
    )


def migrate_options(parsed: argparse.Namespace) -> MigrateOptions:
    """Return the options of a parsed command line."""
    convert = ConvertOptions(allocator=parsed.allocator, card_mib=parsed.cards, share_default=parsed.share_default)
    return MigrateOptions(
        files=tuple(parsed.filename), output=parsed.output, recursive=parsed.recursive, convert=convert
    )


def _cards(text: str) -> tuple[int, ...]:
    sizes: list[int] = []
    for card in text.split(","):
        name, equals, memory = card.rpartition("=")
        if not equals or not name.strip():
            raise argparse.ArgumentTypeError(f"{card!r:.80} is not NAME=MEMORY, as 'NVIDIA L4=23034Mi'")
        sizes.append(floor_mib(_bytes(memory.strip())) // MIB)
        if not sizes[-1]:
            raise argparse.ArgumentTypeError(f"{card!r:.80} has less than 1 MiB")
    return tuple(dict.fromkeys(sizes))


def _share(text: str) -> ShareDefault:
    memory, comma, cores = text.partition(",")
    percent = _percent(cores.strip(), "cores", least=0) if comma else 0
    if memory.strip().endswith("%"):
        return ShareDefault(memory_percent=_percent(memory.strip()[:-1], "a percentage", least=1), cores=percent)
    size = _bytes(memory.strip())
    if not size:
        raise argparse.ArgumentTypeError("a share without memory is none; give at least 1Mi")
    return ShareDefault(memory_mib=ceil_mib(size) // MIB, cores=percent)


def _percent(text: str, what: str, *, least: int) -> int:
    if not (text.isascii() and text.isdigit() and least <= int(text[:4]) <= 100):
        raise argparse.ArgumentTypeError(f"{text!r:.80} is not {what} from {least} to 100")
    return int(text)


def _bytes(text: str) -> int:
    try:
        return quantity_bytes(text)
    except QuantityInvalid as error:
        raise argparse.ArgumentTypeError(str(error)) from error

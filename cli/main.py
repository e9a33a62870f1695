"""The ``fracgpu`` command.

Parts are imported when they are asked for: the kubelet plugin must not need what only the lab needs.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from typing import NoReturn

_USAGE_ERROR = 2


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line ``argv`` (default: that of the process) and return the exit status."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    if arguments[:1] == ["kubeletplugin"]:
        # Its options are its own: nothing of them is repeated here.
        from fracgpu.kubeletplugin.main import main as run_plugin

        return run_plugin(arguments[1:])
    if arguments == ["--version"]:
        arguments = ["version"]
    parsed = _parser().parse_args(arguments)
    if parsed.command == "lab":
        from fracgpu.cli.lab import run_lab

        return run_lab(parsed)
    from fracgpu.cli.version import print_version

    return print_version()


class _Parser(argparse.ArgumentParser):
    """Says what is wrong in one line; the usage is in --help."""

    def error(self, message: str) -> NoReturn:
        sys.stderr.write(f"{self.prog}: {message}; see {self.prog} --help\n")
        raise SystemExit(_USAGE_ERROR)


def _parser() -> argparse.ArgumentParser:
    from fracgpu.cli.lab_options import add_lab_options

    parser = _Parser(
        prog="fracgpu",
        description="Fractions of NVIDIA GPUs as Kubernetes ResourceClaims: enforced, with proof.",
        epilog="fracgpu COMMAND --help tells more about a command.",
        allow_abbrev=False,
    )
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    lab = commands.add_parser(
        "lab",
        help="two pods share one simulated GPU on this machine: five exercises, PASS or FAIL",
        description="Run the five exercises on an embedded cluster with a simulated GPU. Exit status 0: all passed; "
        "1: one failed; 2: wrong usage; 3: the lab could not be started; 130: interrupted.",
        allow_abbrev=False,
    )
    add_lab_options(lab)
    commands.add_parser("kubeletplugin", help="the node's part: publish GPUs, prepare claims (runs in the cluster)")
    commands.add_parser("version", help="print the version")
    return parser


if __name__ == "__main__":
    sys.exit(main())

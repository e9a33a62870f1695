"""The ``fracgpu`` command.

Parts are imported when they are asked for: the kubelet plugin must not need what only the lab needs.
"""

from __future__ import annotations

import argparse
import signal
import sys
from collections.abc import Sequence
from typing import NoReturn

from fracgpu.cli.cluster_options import add_explain_options, add_fit_options, add_top_options
from fracgpu.cli.doctor.options import add_doctor_options
from fracgpu.cli.limits_options import add_limits_options
from fracgpu.cli.migrate.options import add_migrate_options
from fracgpu.cli.run_command.options import SEPARATOR, add_run_options, run_options, split_command
from fracgpu.cli.streams import put

_USAGE_ERROR = 2
_CLUSTER_COMMANDS = ("fit", "explain", "top")
_INTERRUPTED = 128 + signal.SIGINT


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line ``argv`` (default: that of the process) and return the exit status."""
    try:
        return _dispatch(list(sys.argv[1:] if argv is None else argv))
    except KeyboardInterrupt:
        return _INTERRUPTED


def _dispatch(arguments: list[str]) -> int:
    if arguments[:1] == ["kubeletplugin"]:
        # Its options are its own: nothing of them is repeated here.
        from fracgpu.kubeletplugin.main import main as run_plugin

        return run_plugin(arguments[1:])
    if arguments[:1] == ["controller"]:
        from fracgpu.controller.main import main as run_controller

        return run_controller(arguments[1:])
    if arguments == ["--version"]:
        arguments = ["version"]
    command: list[str] = []
    if arguments[:1] == ["run"]:
        # What follows `--` is somebody else's command line, and must reach it as it was written.
        arguments, command = split_command(arguments)
    parser = _parser()
    parsed, unknown = parser.parse_known_args(arguments)
    if unknown:
        hint = f"; the command goes after {SEPARATOR}" if parsed.command == "run" and not command else ""
        parser.error(f"unrecognized arguments: {' '.join(unknown)}{hint}")
    if parsed.command == "run":
        from fracgpu.cli.run_command.run import run_command

        return run_command(run_options(parsed, command))
    if parsed.command in _CLUSTER_COMMANDS:
        return _look_at_cluster(parsed)
    return _run_locally(parsed)


def _run_locally(parsed: argparse.Namespace) -> int:
    if parsed.command == "doctor":
        from fracgpu.cli.doctor.run import run_doctor

        return run_doctor(parsed)
    if parsed.command == "migrate":
        from fracgpu.cli.migrate.run import run_migrate

        return run_migrate(parsed)
    if parsed.command == "limits":
        from fracgpu.cli.limits import run_limits

        return run_limits(parsed)
    if parsed.command == "lab":
        from fracgpu.cli.lab import run_lab

        return run_lab(parsed)
    from fracgpu.cli.version import print_version

    return print_version()


def _look_at_cluster(parsed: argparse.Namespace) -> int:
    if parsed.command == "fit":
        from fracgpu.cli.fit import run_fit

        return run_fit(parsed)
    if parsed.command == "explain":
        from fracgpu.cli.explain import run_explain

        return run_explain(parsed)
    from fracgpu.cli.top import run_top

    return run_top(parsed)


class _Parser(argparse.ArgumentParser):
    """Says what is wrong in one line; the usage is in --help."""

    def error(self, message: str) -> NoReturn:
        put(sys.stderr, f"{self.prog}: {message}; see {self.prog} --help\n")
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
    run = commands.add_parser(
        "run", help="run one command under a limit on GPU memory, without Kubernetes", allow_abbrev=False
    )
    add_run_options(run)
    doctor = commands.add_parser(
        "doctor",
        help="check this machine: driver, container runtime, kubelet, other owners of its GPUs",
        description="Check this machine and change nothing. Exit status 0: nothing to repair; 1: something to repair; "
        "2: wrong usage.",
        allow_abbrev=False,
    )
    add_doctor_options(doctor)
    migrate = commands.add_parser(
        "migrate",
        help="turn manifests with nvidia.com/gpu, gpumem and gpucores into manifests with ResourceClaims",
        description="Read manifests, write them with ResourceClaims; nothing is sent to a cluster. What means "
        "something else afterwards, and what could not be translated, is said on stderr. Exit status 0: all was "
        "translated; 1: something was not; 2: wrong usage.",
        allow_abbrev=False,
    )
    add_migrate_options(migrate)
    limits = commands.add_parser(
        "limits",
        help="limits of the claims on this node: show, set, suspend, resume, while programs run",
        description="Look at the limits of the claims that are prepared on this node, or change them at once. They go "
        "below what a claim was prepared with, and back, never beyond. Exit status 0: done; 1: refused; 2: wrong "
        "usage; 3: the node's files can not be read or written.",
        allow_abbrev=False,
    )
    add_limits_options(limits)
    _add_cluster_commands(commands)
    commands.add_parser("controller", help="the cluster's part: allocate claims, explain (runs in the cluster)")
    commands.add_parser("kubeletplugin", help="the node's part: publish GPUs, prepare claims (runs in the cluster)")
    commands.add_parser("version", help="print the version")
    return parser


def _add_cluster_commands(commands: argparse._SubParsersAction[_Parser]) -> None:
    status = "2: wrong usage; 3: the cluster could not be asked."
    fit = commands.add_parser(
        "fit",
        help="which node and GPU the pods of manifests would get, what remains, or why they get none",
        description="Try manifests against the cluster as it is, and change nothing. Exit status 0: all pods fit; "
        f"1: some do not; {status}",
        allow_abbrev=False,
    )
    add_fit_options(fit)
    explain = commands.add_parser(
        "explain",
        help="where the shares of a pod or a claim are, or why it waits",
        description=f"Explain a pod or a claim. Exit status 0: it has what it asks for; 1: it waits; {status}",
        allow_abbrev=False,
    )
    add_explain_options(explain)
    top = commands.add_parser(
        "top",
        help="GPUs, claims or nodes: what is allocated, free and in use",
        description=f"Show what the cluster's GPUs are given to. Exit status 0: shown; {status}",
        allow_abbrev=False,
    )
    add_top_options(top)


if __name__ == "__main__":
    sys.exit(main())

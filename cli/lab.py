"""``fracgpu lab``: run the exercises, print the table, leave nothing behind."""

from __future__ import annotations

import argparse
import signal
import sys
from types import FrameType
from typing import NoReturn

from fracgpu.driver.errors import FracgpuError
from fracgpu.driver.log import configure_logging

EXIT_PASSED, EXIT_FAILED, EXIT_UNAVAILABLE = 0, 1, 3
EXIT_INTERRUPTED = 128 + signal.SIGINT
_INTERRUPTIONS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
_AGAIN_S = 0.01


def run_lab(arguments: argparse.Namespace) -> int:
    """Run the lab as the command line asks; return the exit status."""
    # A polite kill and a closed terminal clean up as Ctrl-C does; what a parent has chosen to ignore stays ignored.
    for number in _INTERRUPTIONS:
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, _interrupt)
    sys.unraisablehook = _raise_again_if_lost
    try:
        return _run(arguments)
    except KeyboardInterrupt:
        sys.stderr.write("fracgpu lab: interrupted; nothing is left behind\n")
        return EXIT_INTERRUPTED


def _run(arguments: argparse.Namespace) -> int:
    try:
        from fracgpu.sim.lab import report
        from fracgpu.sim.lab.options import LabOptions
        from fracgpu.sim.lab.run import run_exercises
    except ModuleNotFoundError as error:
        sys.stderr.write(f"fracgpu lab: {error.name} is not installed; pip install 'fracgpu[lab]'\n")
        return EXIT_UNAVAILABLE
    configure_logging("debug" if arguments.verbose else "error", json=False)
    options = LabOptions(
        allocator=arguments.allocator,
        fallback=arguments.fallback,
        log_level="debug" if arguments.verbose else "info",
    )
    try:
        result = run_exercises(options, bundle_path=arguments.bundle, on_headline=_print_headline)
    except (FracgpuError, OSError) as error:
        sys.stderr.write(f"fracgpu lab: {error}\n")
        return EXIT_UNAVAILABLE
    print(report.table(result.outcomes))
    print()
    print(report.details(result.outcomes))
    passed = sum(outcome.passed for outcome in result.outcomes)
    print(f"\n{passed} of {len(result.outcomes)} passed")
    if arguments.bundle:
        print(f"evidence: {arguments.bundle}")
    return EXIT_PASSED if result.passed else EXIT_FAILED


def _print_headline(headline: str) -> None:
    print(f"fracgpu lab: {headline}", flush=True)


def _interrupt(_signal: int, _frame: FrameType | None) -> NoReturn:
    # The clean-up that now begins must not be cut short by a second Ctrl-C.
    for number in _INTERRUPTIONS:
        signal.signal(number, signal.SIG_IGN)
    raise KeyboardInterrupt


def _raise_again_if_lost(lost: sys.UnraisableHookArgs) -> None:
    """Python drops what is raised in a finalizer or a weak reference's callback, which may be what a signal hits."""
    if lost.exc_type is KeyboardInterrupt:
        signal.signal(signal.SIGALRM, _interrupt)
        signal.setitimer(signal.ITIMER_REAL, _AGAIN_S)
    else:
        sys.__unraisablehook__(lost)

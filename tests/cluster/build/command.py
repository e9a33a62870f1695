"""Runs the programs that build things: quiet when they succeed, with their last lines when they do not.

They end when this process does, also when it is killed: a compiler that goes on for minutes would slow down the next
build, and write where that one cleans up.
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

from tests.cluster.build.errors import CommandFailed

_LAST_LINES: Final = 15
# The kernel kills the program when its parent ends (prctl(2), PR_SET_PDEATHSIG).
_BOUND: Final = ("setpriv", "--pdeathsig", "KILL", "--")


def run(command: Sequence[str | Path], *, cwd: Path | None = None, environment: Mapping[str, str] | None = None) -> str:
    """Run a program to its end and return what it wrote to standard output.

    Args:
        command: program and arguments
        cwd: where it runs; here unless given
        environment: variables to set or to replace

    Raises:
        CommandFailed: it cannot be started, or its exit status is not 0

    """
    words = [str(word) for word in command]
    try:
        result = subprocess.run(
            [*_BOUND, *words],
            cwd=cwd,
            env={**os.environ, **(environment or {})},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            check=False,
        )
    except OSError as error:
        raise CommandFailed(" ".join(words), str(error), remedy="install util-linux") from error
    if result.returncode:
        last = "\n".join((result.stdout + result.stderr).strip().splitlines()[-_LAST_LINES:])
        raise CommandFailed(
            " ".join(words), f"exit status {result.returncode}", remedy=f"its last words are:\n{last or '(nothing)'}"
        )
    return result.stdout

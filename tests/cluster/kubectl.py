"""kubectl, as a user runs it: what it prints and how it ends is part of what is tested."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from fracgpu.sim.lab.errors import CommandFailed

_LIMIT_S: Final = 120.0


@dataclass(frozen=True, slots=True)
class Kubectl:
    """The program with the kubeconfig that it acts by; `cache` is for what it learns about the API."""

    program: Path
    kubeconfig: Path
    cache: Path

    def command(self, *arguments: str | Path) -> list[str]:
        """Return the argument list of a call."""
        options = [f"--kubeconfig={self.kubeconfig}", f"--cache-dir={self.cache}"]
        return [str(self.program), *options, *map(str, arguments)]

    def run(self, *arguments: str | Path, stdin: str | None = None) -> subprocess.CompletedProcess[str]:
        """Run a call to its end, however it ends."""
        return subprocess.run(
            self.command(*arguments),
            input=stdin,
            stdin=subprocess.DEVNULL if stdin is None else None,
            capture_output=True,
            text=True,
            timeout=_LIMIT_S,
            check=False,
            env={**os.environ, "KUBECTL_KUBERC": "false"},
        )

    def output(self, *arguments: str | Path, stdin: str | None = None) -> str:
        """Return what a call prints; raises CommandFailed when it fails."""
        result = self.run(*arguments, stdin=stdin)
        if result.returncode != 0:
            raise CommandFailed(_subject(arguments), result.stderr.strip(), remedy="see its message")
        return result.stdout


def _subject(arguments: Sequence[str | Path]) -> str:
    return "kubectl " + " ".join(map(str, arguments))

"""``python -m tests.native.fuzz.run SECONDS``: fuzz what reads config pages and state files.

Exit status 0: nothing was found and the target was reached; 1: an input was found that breaks something (it is printed
as a line for the corpus), or the inputs never got past the first checks; 2: wrong usage, or no libFuzzer.
"""

from __future__ import annotations

import re
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from tests.cluster.build.errors import BuildError
from tests.native.fuzz.build import build_target
from tests.native.fuzz.seeds import write_seeds

_COUNTS: Final = re.compile(r"accepted: (\d+) inputs, (\d+) pages, (\d+) feedbacks, (\d+) states, (\d+) reservations")
# Beyond the time that it was given: what it needs to end, on a busy machine.
_PATIENCE_SECONDS: Final = 120
# One input that takes longer hangs.
_INPUT_SECONDS: Final = 20
_MAX_INPUT_BYTES: Final = 2048


@dataclass(frozen=True, slots=True)
class Found:
    """What a run of the target came to: the breaking input if there was one, and the counts of the target's report."""

    crasher: bytes | None
    counts: tuple[int, ...]
    log: str

    @property
    def reached(self) -> bool:
        """Whether inputs got through to everything that the target is for."""
        return len(self.counts) == 5 and min(self.counts) > 0


def fuzz(program: Path, directory: Path, seconds: int, *options: str) -> Found:
    """Run the target for `seconds`, with the seeds, and return what it found."""
    corpus, crashes = directory / "corpus", directory / "crashes"
    corpus.mkdir()
    crashes.mkdir()
    write_seeds(corpus)
    limits = [f"-max_total_time={seconds}", f"-timeout={_INPUT_SECONDS}", f"-max_len={_MAX_INPUT_BYTES}"]
    output = [f"-artifact_prefix={crashes}/", "-print_final_stats=1", "-reload=0"]
    command: list[str | Path] = [program, *limits, *output, *options, corpus]
    result = subprocess.run(
        command,
        capture_output=True,
        timeout=seconds + _PATIENCE_SECONDS,
        check=False,
        text=True,
        errors="replace",
        env={"ASAN_OPTIONS": "detect_leaks=1", "UBSAN_OPTIONS": "print_stacktrace=1"},
    )
    counts = _COUNTS.search(result.stderr)
    crashers = sorted(crashes.iterdir())
    crasher = crashers[0].read_bytes() if crashers else b"" if result.returncode else None
    return Found(crasher, tuple(map(int, counts.groups())) if counts else (), result.stderr)


def main(arguments: Sequence[str]) -> int:
    """Run the command line and return the exit status."""
    if len(arguments) != 1 or not arguments[0].isdigit():
        sys.stderr.write("usage: python -m tests.native.fuzz.run SECONDS\n")
        return 2
    with tempfile.TemporaryDirectory(prefix="fracgpu-fuzz-") as name:
        directory = Path(name)
        try:
            program = build_target(directory)
        except BuildError as error:
            sys.stderr.write(f"make fuzz: {error}\n")
            return 2
        found = fuzz(program, directory, int(arguments[0]))
    sys.stdout.writelines(f"{line}\n" for line in found.log.splitlines() if line.startswith(("accepted:", "stat::")))
    if found.crasher is not None:
        sys.stdout.write(f"{found.log[-4000:]}\n")
        sys.stdout.write(f"found; for tests/native/fuzz/corpus/found.hex:\n{found.crasher.hex()}\n")
        return 1
    if not found.reached:
        sys.stdout.write("no input got past the first checks: the target proves nothing\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

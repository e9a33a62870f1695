"""Let both sharing pods allocate until they are refused, and keep what they have until the caller has looked."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from fracgpu.sim.lab.cluster import RunningCommand
from fracgpu.sim.lab.errors import CommandFailed
from fracgpu.sim.lab.stage import SHARING_PODS, STEP_MIB, Stage

DRIVER_API_CLIMB = ("fracgpu-climb", "driver", str(STEP_MIB), "--hold")
_DEADLINE_S = 60.0

Refused = dict[str, Any]
"""What a climbing program wrote when it was refused: `allocated_bytes`, `code` and `name` of the error."""


@contextmanager
def held_climbs(stage: Stage, command: Sequence[str] = DRIVER_API_CLIMB) -> Iterator[dict[str, Refused]]:
    """Run the command in both pods; yield how each was refused while both still hold their memory.

    Raises:
        CommandFailed: a program was never refused.

    """
    processes: list[RunningCommand] = []
    watchdog = threading.Timer(_DEADLINE_S, _kill_all, [processes])
    watchdog.start()
    try:
        processes += [stage.cluster.spawn(name, list(command), namespace=stage.namespace) for name in SHARING_PODS]
        pairs = zip(SHARING_PODS, processes, strict=True)
        yield {name: _await_refusal(name, process) for name, process in pairs}
    finally:
        watchdog.cancel()
        for process in processes:
            process.terminate()
            process.communicate()


def _kill_all(processes: list[RunningCommand]) -> None:
    for process in processes:
        process.kill()


def _await_refusal(name: str, process: RunningCommand) -> Refused:
    """Read the program's lines until it says that it was refused."""
    last = b""
    for line in process.lines():
        last = line
        event: Refused = json.loads(line)
        if event["event"] == "refused":
            return event
    stderr = process.stderr.read().decode(errors="replace").strip() if process.stderr else ""
    raise CommandFailed(
        f"pod {name}", f"the climbing program was never refused: {stderr or last!r}", remedy="see its output"
    )

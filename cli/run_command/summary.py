"""What a run came to, in one line per GPU, read from the state files before they go."""

from __future__ import annotations

from collections.abc import Sequence

from fracgpu.cli.run_command.assemble import RunAllocation
from fracgpu.driver.quantity import format_mib
from fracgpu.native.errors import StateFileInvalid
from fracgpu.native.state_file import read_state_file

CORES_NOTE = "cores are noted but not enforced: this build limits memory only"


def summary_lines(allocations: Sequence[RunAllocation]) -> list[str]:
    """Return a line per GPU: peak and refusals, or why there is nothing to tell.

    A command whose processes never took a slot used no GPU, or went past the shims; which of the two can not be told
    from here, so both are said.
    """
    lines = []
    joined = False
    for allocation in allocations:
        gpu = f"GPU {allocation.gpu.index}"
        try:
            snapshot = read_state_file(allocation.state)
        except StateFileInvalid as error:
            lines.append(f"{gpu}: what was used is not known: {error.what}")
            joined = True
            continue
        joined = joined or snapshot.slots_used > 0
        peak = f"peak {format_mib(snapshot.peak_bytes)} of {format_mib(allocation.memory_bytes)}"
        lines.append(f"{gpu}: {peak}, {snapshot.refusals} refused")
    if joined:
        return lines
    return [
        "warning: no process of the command took part in the limit. Either none of them used CUDA, or they do not load "
        "libcuda.so.1 through LD_LIBRARY_PATH (static binary, another C library, RPATH, set-user-ID) and had no limit"
    ]

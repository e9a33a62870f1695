"""The first process of the node: makes the machine, runs one command in it, and collects orphans until that ends.

    python -m tests.cluster.machine.init BASE RUN GPUS COMMAND...

It is started in new namespaces by tests.cluster.run. When it ends, for whatever reason, the kernel ends everything
that was ever started on the node, so a run that is killed leaves no process and no mount behind.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from types import FrameType
from typing import Final

from tests.cluster.machine import cgroups
from tests.cluster.machine.layout import Layout
from tests.cluster.machine.mounts import make_file_systems
from tests.cluster.machine.network import make_network

NODE_NAME: Final = "e2e-node"


def main(arguments: Sequence[str]) -> int:
    """Make the machine and run the command; return its exit status."""
    base, run, gpus, *command = arguments
    layout = Layout(Path(base))
    socket.sethostname(NODE_NAME)
    make_network()
    make_file_systems(layout, gpus=range(int(gpus)))
    cgroups.make_cgroups(cgroups.cgroup_name(run))
    cgroups.enter_cgroups(cgroups.cgroup_name(run))
    return _reap_until_done(subprocess.Popen(command))


def _reap_until_done(child: subprocess.Popen[bytes]) -> int:
    def forward(number: int, _frame: FrameType | None) -> None:
        os.kill(child.pid, number)

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, forward)
    # Orphans of the whole node come here, and who is not waited for stays a zombie.
    while True:
        pid, status = os.waitpid(-1, 0)
        if pid == child.pid:
            code = os.waitstatus_to_exitcode(status)
            return code if code >= 0 else 128 - code


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

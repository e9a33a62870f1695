"""What tells one boot of the node from the next: the kernel's boot id, which the kubelet compares.

The kernel has one for all namespaces, so the node has a file of its own mounted over it.
"""

from __future__ import annotations

import uuid
from pathlib import Path
from typing import Final

from tests.cluster.machine.layout import Layout

BOOT_ID: Final = Path("/proc/sys/kernel/random/boot_id")


def new_boot_id(layout: Layout) -> None:
    """Give the node another boot id; a mount of the file shows it."""
    layout.boot_id.write_text(f"{uuid.uuid4()}\n")

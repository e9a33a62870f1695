"""``fracgpu version``."""

from __future__ import annotations

from importlib.metadata import version


def print_version() -> int:
    """Print the version of the installed package; return the exit status."""
    print(f"fracgpu {version('fracgpu')}")
    return 0

"""Builds everything that `make e2e` starts a cluster from, and lists it: `python -m tests.cluster.build`."""

from __future__ import annotations

import sys
import time

from fracgpu.driver.errors import FracgpuError
from tests.cluster.build.artifacts import build
from tests.cluster.build.cache import cache_root


def main() -> int:
    """Return the exit status: 0, or 1 when something cannot be built."""
    began = time.monotonic()
    try:
        artifacts = build()
    except FracgpuError as error:
        sys.stderr.write(f"{error}\n")
        return 1
    files = {
        "kubernetes": artifacts.kubernetes,
        "containerd": artifacts.containerd_dir / "containerd",
        "runc": artifacts.runc,
        **artifacts.images,
    }
    for name, path in files.items():
        sys.stdout.write(f"{path.stat().st_size / 1e6:8.1f} MB  {name:32} {path}\n")
    sys.stdout.write(f"in {time.monotonic() - began:.1f} s, in {cache_root()}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""What a user of `fracgpu run` has before him: GPUs in a file, a driver installation, a place for temporary files."""

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fracgpu.native.libraries import NativeLibraries

MIB = 1 << 20
GPUS = ("GPU-11111111-2222-3333-4444-555555555555", "GPU-66666666-7777-8888-9999-aaaaaaaaaaaa")
COMMAND = (sys.executable, "-m", "fracgpu.cli.main")
DEADLINE_SECONDS = 120


@dataclass
class Machine:
    """A machine with a driver below `driver_root`; `temporary` is where prefixes go."""

    gpus: Path
    driver_root: Path
    temporary: Path
    libraries: NativeLibraries

    def environment(self, **more: str) -> dict[str, str]:
        ours = {"FRACGPU_FAKE_GPU": str(self.gpus), "TMPDIR": str(self.temporary)}
        # Users have buffered streams, and those try once more when the interpreter ends.
        ours_to_set = ("CUDA_", "FRACGPU_", "PYTHONUNBUFFERED")
        kept = {key: value for key, value in os.environ.items() if not key.startswith(ours_to_set)}
        return {**kept, **ours, **more}

    def arguments(self, *arguments: str | Path) -> list[str]:
        return [*COMMAND, "run", "--driver-root", str(self.driver_root), *map(str, arguments)]

    def run(self, *arguments: str | Path, **env: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            self.arguments(*arguments),
            env=self.environment(**env),
            capture_output=True,
            text=True,
            check=False,
            timeout=DEADLINE_SECONDS,
        )

    def prefixes(self) -> list[Path]:
        return sorted(self.temporary.iterdir())

    def probe(self, name: str) -> Path:
        return self.libraries.probe(f"fracgpu-{name}")


def json_lines(text: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in text.splitlines()]

"""What the interceptor costs programs that start: those without CUDA in strict mode, and 300 with CUDA at once.

    python bench/native/starts.py [--json bench/results/native-starts.json]

Both sides of each comparison run in turns, and only their difference means something.
"""

import argparse
import json
import os
import platform
import shutil
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

from fracgpu.native.fake_gpu import FakeGpuSpec, create_machine
from fracgpu.native.libraries import NativeLibraries
from fracgpu.native.state_file import new_state_file

HERE = Path(__file__).resolve().parent
CROWD = HERE.parents[1] / "tests" / "native" / "loading" / "crowd.c"
GPU = "GPU-11111111-2222-3333-4444-555555555555"
KEY = "0123456789abcdef"
PROGRAMS = 300
# A container's view: /etc and /run of its own.
_ENTER = 'mount --bind "$0/etc" /etc && mount --bind "$0/run" /run && exec "$@"'


def compile_program(source: Path, target: Path) -> Path:
    """Compile one of the programs."""
    compiler = [
        sys.executable,
        "-m",
        "ziglang",
        "cc",
        "-O2",
        "-std=c11",
        "-D_GNU_SOURCE",
        "-Wall",
        "-Wextra",
        "-Werror",
    ]
    subprocess.run([*compiler, str(source), "-o", str(target), "-ldl"], check=True)
    return target


def start_costs(directory: Path, libraries: NativeLibraries, rounds: int) -> dict[str, list[float]]:
    """Return microseconds to start /bin/true, by what the container has."""
    program = compile_program(HERE / "starts.c", directory / "starts")
    sides = ("no claim", "strict")
    for side in sides:
        place = directory / side / "run" / "fracgpu" / "preload"
        place.mkdir(parents=True)
        shutil.copytree("/etc", directory / side / "etc", symlinks=True, ignore=lambda *_: ["shadow", "gshadow"])
    shutil.copy(libraries.preload_list, directory / "strict" / "etc" / "ld.so.preload")
    shutil.copy(libraries.preload_cuda, directory / "strict" / "run" / "fracgpu" / "preload" / "libcuda.so.1")
    shutil.copy(libraries.preload_alias, directory / "strict" / "run" / "fracgpu" / "preload" / "libcuda.so")
    found: dict[str, list[float]] = {side: [] for side in sides}
    for _ in range(rounds):
        for side in sides:
            command = ["unshare", "-Urm", "sh", "-c", _ENTER, str(directory / side), str(program), "400", "/bin/true"]
            output = subprocess.run(command, check=True, capture_output=True, text=True).stdout
            found[side].append(float(output))
    return found


def crowd_costs(directory: Path, libraries: NativeLibraries, rounds: int) -> dict[str, list[float]]:
    """Return seconds until 300 programs that start CUDA at once have allocated, with the shim and without."""
    program = compile_program(CROWD, directory / "crowd")
    prefix = directory / "prefix"
    (prefix / "driver").mkdir(parents=True)
    (prefix / "driver" / "libcuda.so.1").symlink_to(libraries.fake_cuda)
    (prefix / "libcuda.so.1").symlink_to(libraries.standalone_cuda)
    create_machine(directory / "machine", [FakeGpuSpec(uuid=GPU, memory_bytes=64 << 30, context_bytes=0)])
    state = prefix / "allocations" / KEY / "state"
    state.parent.mkdir(parents=True)
    found: dict[str, list[float]] = {"model alone": [], "shim": []}
    for _ in range(rounds):
        for side, path in (("model alone", prefix / "driver"), ("shim", prefix)):
            state.write_bytes(new_state_file(GPU))
            environment = {
                "LD_LIBRARY_PATH": str(path),
                "FRACGPU_FAKE_GPU": str(directory / "machine"),
                "FRACGPU_PREFIX": str(prefix),
                f"FRACGPU_ALLOCATION_{KEY}": f"gpu {GPU} 32768Mi 0",
            }
            command = [str(program), str(PROGRAMS)]
            done = subprocess.run(command, env=environment, input="", check=True, capture_output=True, text=True)
            well, seconds, _ = done.stdout.split()
            assert int(well) == PROGRAMS, done.stdout
            found[side].append(float(seconds))
    return found


def main() -> None:
    """Measure both, print a table, and write JSON when asked."""
    parser = argparse.ArgumentParser(description="what programs pay when they start")
    parser.add_argument("--json", type=Path, help="also write the numbers there")
    parser.add_argument("--rounds", type=int, default=9)
    arguments = parser.parse_args()
    libraries = NativeLibraries.locate()
    with tempfile.TemporaryDirectory() as name:
        measured = {
            "us to start /bin/true": start_costs(Path(name), libraries, arguments.rounds),
            f"s until {PROGRAMS} programs at once have allocated": crowd_costs(Path(name), libraries, arguments.rounds),
        }
    rows = []
    for what, sides in measured.items():
        medians = {side: statistics.median(times) for side, times in sides.items()}
        first, second = medians.values()
        rows.append({"what": what, **medians, "difference": second - first})
        print(f"{what:48}" + "".join(f"{side} {median:.4g}  " for side, median in medians.items()), end="")
        print(f"difference {second - first:.4g}")
    if arguments.json is not None:
        machine = {"kernel": platform.release(), "machine": platform.machine(), "processors": os.cpu_count()}
        arguments.json.write_text(json.dumps({"machine": machine, "rows": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()

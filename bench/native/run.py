"""What the interceptor costs per call, against the same call without it.

On a driver that does nothing, so that only the interceptor's own time is left, and once on the model.

    python bench/native/run.py [--json bench/results/native.json]

Both drivers answer in less than a real one takes, so the differences in nanoseconds carry over to a real GPU and the
ratios do not.
"""

import argparse
import contextlib
import fcntl
import json
import os
import platform
import struct
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from fracgpu.native import abi
from fracgpu.native.fake_gpu import FakeGpuSpec, create_machine
from fracgpu.native.libraries import NativeLibraries
from fracgpu.native.state_file import new_state_file

HERE = Path(__file__).resolve().parent
GPU = "GPU-11111111-2222-3333-4444-555555555555"
KEY = "0123456789abcdef"
# Slots in use, live allocations.
CASES = ((1, 1), (1, 1000), (1, 100_000), (64, 1), (1024, 1))
SHARED = ("-shared", "-fPIC", "-fvisibility=hidden", "-Wl,-soname,libcuda.so.1")
FLOCK = struct.Struct("@hhqqi4x")


def compile_source(directory: Path, source: str, *flags: str) -> Path:
    """Compile one of the sources beside this file."""
    target = directory / Path(source).stem
    compiler = [sys.executable, "-m", "ziglang", "cc", "-O2", "-std=c11", "-Wall", "-Wextra", "-Werror"]
    subprocess.run([*compiler, str(HERE / source), "-o", str(target), *flags], check=True)
    return target


@contextlib.contextmanager
def slots_used(state: Path, count: int) -> Iterator[None]:
    """Hold the first `count - 1` slots, each with a little memory, as other processes of the container would."""
    descriptor = os.open(state, os.O_RDWR)
    try:
        for index in range(count - 1):
            offset = abi.STATE_HEADER_BYTES + index * abi.SLOT_STRIDE_BYTES
            fcntl.fcntl(descriptor, fcntl.F_OFD_SETLK, FLOCK.pack(fcntl.F_WRLCK, os.SEEK_SET, offset, 1, 0))
            os.pwrite(descriptor, struct.pack("<IiQQQQ", abi.SLOT_LIVE, 1, 0, 0, 1, 4096), offset)
        os.pwrite(
            descriptor, struct.pack("<Q", count - 1), abi.ffi.offsetof("struct fracgpu_state_header", "slot_high_water")
        )
        yield
    finally:
        os.close(descriptor)


def measure(
    program: Path, driver: Path, libraries: NativeLibraries, *, slots: int, live: int, rounds: int, calls: int
) -> list[dict[str, object]]:
    """Run the program once; returns one row per kind of call."""
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        create_machine(directory / "machine", [FakeGpuSpec(uuid=GPU, memory_bytes=64 << 30)])
        state = directory / "allocations" / KEY / "state"
        state.parent.mkdir(parents=True)
        state.write_bytes(new_state_file(GPU))
        (directory / "driver").mkdir()
        (directory / "driver" / "libcuda.so.1").symlink_to(driver)
        (directory / "libcuda.so.1").symlink_to(libraries.standalone_cuda)
        environment = {
            "FRACGPU_FAKE_GPU": str(directory / "machine"),
            "FRACGPU_PREFIX": name,
            f"FRACGPU_ALLOCATION_{KEY}": f"gpu {GPU} 32768Mi 0",
        }
        with slots_used(state, slots):
            paths = [str(directory / "libcuda.so.1"), str(directory / "driver" / "libcuda.so.1")]
            command = [str(program), *paths, str(live), str(rounds), str(calls)]
            output = subprocess.run(command, env=environment, check=True, capture_output=True, text=True).stdout
    rows: list[dict[str, object]] = []
    for line in output.splitlines():
        call, direct, shim = line.split()
        rows.append(
            {"driver": driver.parent.name, "call": call, "slots": slots, "live": live, "direct_ns": float(direct)}
            | {"shim_ns": float(shim), "added_ns": round(float(shim) - float(direct), 1)}
        )
    return rows


def main() -> None:
    """Measure all cases, print a table, and write JSON when asked."""
    parser = argparse.ArgumentParser(description="nanoseconds per intercepted call")
    parser.add_argument("--json", type=Path, help="also write the numbers there")
    parser.add_argument("--rounds", type=int, default=41)
    parser.add_argument("--calls", type=int, default=2000)
    arguments = parser.parse_args()
    libraries = NativeLibraries.locate()
    rows: list[dict[str, object]] = []
    print(f"{'driver':8}{'call':32}{'slots':>6}{'live':>7}{'direct ns':>11}{'shim ns':>10}{'added ns':>10}")
    with tempfile.TemporaryDirectory() as name:
        program = compile_source(Path(name), "calls.c", "-ldl")
        (Path(name) / "null").mkdir()
        null_driver = compile_source(Path(name), "null_driver.c", *SHARED).rename(Path(name) / "null" / "libcuda.so.1")
        for driver, slots, live in [(null_driver, *case) for case in CASES] + [(libraries.fake_cuda, 1, 1)]:
            for row in measure(
                program, driver, libraries, slots=slots, live=live, rounds=arguments.rounds, calls=arguments.calls
            ):
                rows.append(row)
                print(
                    f"{row['driver']:8}{row['call']:32}{row['slots']:>6}{row['live']:>7}{row['direct_ns']:>11}"
                    f"{row['shim_ns']:>10}{row['added_ns']:>10}"
                )
    if arguments.json is not None:
        arguments.json.parent.mkdir(parents=True, exist_ok=True)
        machine = {"kernel": platform.release(), "machine": platform.machine(), "processors": os.cpu_count()}
        arguments.json.write_text(json.dumps({"machine": machine, "rows": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()

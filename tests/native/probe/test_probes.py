"""The probes' output and exit statuses, which the demo and the interceptor's tests read."""

import json
import signal
import subprocess
from pathlib import Path
from typing import Any

import pytest

from fracgpu.native import fake_gpu
from fracgpu.native.libraries import NativeLibraries

MIB = 1 << 20
CONTEXT, CARD = 16 * MIB, 256 * MIB
UUID = "GPU-6c1f2a34-0b1c-4d2e-8f30-415263748596"


def run(native: NativeLibraries, environment: dict[str, str], name: str, *arguments: str) -> tuple[int, list[Any]]:
    done = subprocess.run(
        [str(native.probe(name)), *arguments], env=environment, capture_output=True, text=True, check=False
    )
    return done.returncode, [json.loads(line) for line in done.stdout.splitlines()]


def test_climb_stops_at_the_top(native_build: NativeLibraries, environment: dict[str, str], machine: Path) -> None:
    status, lines = run(native_build, environment, "fracgpu-climb", "driver", "64")
    assert status == 0
    assert lines[:-1] == [{"event": "step", "step": n, "allocated_bytes": n * 64 * MIB} for n in (1, 2, 3)]
    assert lines[-1] == {
        "event": "refused",
        "api": "driver",
        "code": 2,
        "name": "CUDA_ERROR_OUT_OF_MEMORY",
        "allocated_bytes": 192 * MIB,
        "free_bytes": CARD - CONTEXT - 192 * MIB,
        "total_bytes": CARD,
    }
    assert fake_gpu.read_usage(machine)[0].used_bytes == 0


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize("arguments", [("fracgpu-climb", "driver", "64", "--hold"), ("fracgpu-hold", "driver", "192")])
def test_holding_until_told(
    native_build: NativeLibraries,
    environment: dict[str, str],
    machine: Path,
    arguments: tuple[str, ...],
    number: signal.Signals,
) -> None:
    command = [str(native_build.probe(arguments[0])), *arguments[1:]]
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        line: dict[str, Any] = {"event": "step"}
        while line.get("event") == "step":
            line = json.loads(process.stdout.readline())
        assert line["allocated_bytes"] == 192 * MIB
        (usage,) = fake_gpu.read_usage(machine)
        assert [(entry.pid, entry.used_bytes) for entry in usage.processes] == [(process.pid, 192 * MIB + CONTEXT)]
        process.send_signal(number)
        assert process.wait() == 0
    assert fake_gpu.read_usage(machine)[0].used_bytes == 0


def test_hold_says_when_it_is_refused(native_build: NativeLibraries, environment: dict[str, str]) -> None:
    status, lines = run(native_build, environment, "fracgpu-hold", "driver", "4096")
    assert (status, lines) == (1, [{"ready": False, "code": 2, "name": "CUDA_ERROR_OUT_OF_MEMORY"}])


def test_view_shows_both_libraries(native_build: NativeLibraries, environment: dict[str, str]) -> None:
    status, (view,) = run(native_build, environment, "fracgpu-view")
    assert status == 0
    assert view["cuda"] == {
        "library": str(native_build.fake_cuda),
        "status": 0,
        "devices": [
            {
                "ordinal": 0,
                "uuid": UUID,
                "name": 'NVIDIA "quoted" \\ GPU',
                "free_bytes": CARD - CONTEXT,
                "total_bytes": CARD,
                "device_total_bytes": CARD,
            }
        ],
    }
    amounts = {"total_bytes": CARD, "free_bytes": CARD, "used_bytes": 0}
    assert view["nvml"] == {
        "library": str(native_build.fake_nvml),
        "status": 0,
        "devices": [
            {
                "index": 0,
                "uuid": UUID,
                "name": 'NVIDIA "quoted" \\ GPU',
                "v1": amounts,
                "v2": {**amounts, "reserved_bytes": 0},
                "processes": [],
            }
        ],
    }


def test_view_lists_other_processes(native_build: NativeLibraries, environment: dict[str, str]) -> None:
    command = [str(native_build.probe("fracgpu-hold")), "driver", "64"]
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout is not None
        holder.stdout.readline()
        _, (view,) = run(native_build, environment, "fracgpu-view")
        holder.terminate()
        assert holder.wait() == 0
    assert view["nvml"]["devices"][0]["processes"] == [{"pid": holder.pid, "used_bytes": 64 * MIB + CONTEXT}]
    assert view["cuda"]["devices"][0]["free_bytes"] == CARD - 2 * CONTEXT - 64 * MIB


def test_view_without_a_gpu(native_build: NativeLibraries, environment: dict[str, str]) -> None:
    status, (view,) = run(native_build, {**environment, "FRACGPU_FAKE_GPU": "/nonexistent"}, "fracgpu-view")
    assert status == 0
    assert (view["cuda"]["status"], view["cuda"]["devices"]) == (100, [])
    assert (view["nvml"]["status"], view["nvml"]["devices"]) == (9, [])


def test_without_libraries(native_build: NativeLibraries, tmp_path: Path) -> None:
    nothing = {"PATH": "/usr/bin:/bin", "LD_LIBRARY_PATH": str(tmp_path)}
    status, (view,) = run(native_build, nothing, "fracgpu-view")
    if "error" not in view["cuda"]:
        pytest.skip("this machine has a driver of its own")
    assert status == 3
    assert "libcuda.so.1" in view["cuda"]["error"]
    status, (line,) = run(native_build, nothing, "fracgpu-hold", "driver", "1")
    assert (status, line["event"]) == (3, "error")
    status, (line,) = run(native_build, nothing, "fracgpu-climb", str(tmp_path / "libcudart.so"), "1")
    assert (status, line["event"]) == (3, "error")


@pytest.mark.parametrize(
    "arguments",
    [
        ("fracgpu-climb",),
        ("fracgpu-climb", "driver", "0"),
        ("fracgpu-climb", "driver", "-5"),
        ("fracgpu-climb", "driver", "1x"),
        ("fracgpu-climb", "driver", "1", "--keep"),
        ("fracgpu-hold", "driver"),
        ("fracgpu-hold", "driver", "99999999999999999999"),
        ("fracgpu-view", "please"),
    ],
    ids=" ".join,
)
def test_usage(native_build: NativeLibraries, environment: dict[str, str], arguments: tuple[str, ...]) -> None:
    assert run(native_build, environment, *arguments) == (2, [])

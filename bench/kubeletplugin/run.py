"""What a Prepare costs, against its floor: an empty gRPC call whose handler forces one file to disk.

    python -m bench.kubeletplugin.run [--json bench/results/kubeletplugin.json]

The shipped plugin runs as a process of its own, with the modelled GPU and an API server that answers from memory. As on
a node, checkpoint and libraries are on a disk, CDI specs and allocations on a tmpfs. Floor and plugin are called in
turns, so their ratio holds on a machine where the microseconds do not.
"""

import argparse
import contextlib
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import grpc
import urllib3

from bench.kubeletplugin.api_server import claim_uid
from fracgpu.driver.names import device_name
from fracgpu.native.fake_gpu import MACHINE_ENV
from fracgpu.native.libraries import NativeLibraries
from fracgpu.proto.dra.v1 import api_pb2, api_pb2_grpc
from fracgpu.sim.lab.machine import make_driver_root, make_gpus
from fracgpu.sim.lab.options import Card

HERE = Path(__file__).resolve().parent
NODE = "bench"
IDLE_SECONDS = 10.0
START_SECONDS = 60.0
HELD_CLAIMS = 8


class Plugin:
    """The running plugin and what it lives on."""

    def __init__(self, disk: Path, memory: Path) -> None:
        self.disk, self.memory = disk, memory
        self.socket = memory / "plugin" / "dra.sock"
        self.machine = memory / "machine"
        gpus = make_gpus((Card(),), self.machine)
        make_driver_root(memory / "driver", NativeLibraries.locate(), gpus=1)
        self.device = device_name(gpus[0].uuid)
        self.api_port = 0
        self.pid = 0

    def arguments(self) -> list[str]:
        """Return the plugin's command line."""
        places = {
            "kubeconfig": self.memory / "kubeconfig",
            "driver-root": self.memory / "driver",
            "dev-root": self.memory / "driver",
            "plugin-dir": self.socket.parent,
            "registry-dir": self.memory / "registry",
            "cdi-dir": self.memory / "cdi",
            "state-dir": self.disk / "state",
            "run-dir": self.memory / "run",
        }
        return [f"--node-name={NODE}", "--log-level=info", *(f"--{name}={path}" for name, path in places.items())]

    def processor_seconds(self) -> float:
        """Return the processor time that the plugin has used."""
        fields = Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def resident_bytes(self) -> int:
        """Return the memory that the plugin has resident."""
        return int(Path(f"/proc/{self.pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


@contextlib.contextmanager
def process(command: list[str], *, log: Path | None = None, env: dict[str, str] | None = None) -> Iterator[Any]:
    """Run a program while the block runs; its first line of output is what it says when it is ready."""
    with contextlib.ExitStack() as stack:
        errors = stack.enter_context(log.open("wb")) if log else None
        running = stack.enter_context(
            subprocess.Popen(command, stdout=subprocess.PIPE, stderr=errors, env={**os.environ, **(env or {})})
        )
        stack.callback(running.kill)
        yield running


@contextlib.contextmanager
def running_plugin(disk: Path, memory: Path) -> Iterator[Plugin]:
    """Start API server and plugin; they end with the block."""
    plugin = Plugin(disk, memory)
    with process([sys.executable, str(HERE / "api_server.py"), plugin.device, NODE]) as api:
        plugin.api_port = int(api.stdout.readline())
        server = f"http://127.0.0.1:{plugin.api_port}"
        cluster = {"name": "c", "cluster": {"server": server}}
        context = {"name": "x", "context": {"cluster": "c", "user": "u"}}
        kubeconfig = {
            "current-context": "x",
            "clusters": [cluster],
            "contexts": [context],
            "users": [{"name": "u", "user": {}}],
        }
        (memory / "kubeconfig").write_text(json.dumps(kubeconfig))
        command = [sys.executable, "-m", "fracgpu.cli.main", "kubeletplugin", *plugin.arguments()]
        log = disk / "plugin.log"
        with process(command, log=log, env={MACHINE_ENV: str(plugin.machine)}) as running:
            plugin.pid = running.pid
            end = time.monotonic() + START_SECONDS
            while not plugin.socket.exists():
                if running.poll() is not None or time.monotonic() > end:
                    raise SystemExit(f"the plugin did not start:\n{log.read_text()}")
                time.sleep(0.05)
            yield plugin


def claims(*names: str) -> list[api_pb2.Claim]:
    """Return the kubelet's references to claims."""
    return [api_pb2.Claim(namespace=NODE, name=name, uid=claim_uid(name)) for name in names]


def prepare(stub: api_pb2_grpc.DRAPluginStub, name: str) -> None:
    """Prepare one claim; ends the program if that fails."""
    answer = stub.NodePrepareResources(api_pb2.NodePrepareResourcesRequest(claims=claims(name)))
    if error := answer.claims[claim_uid(name)].error:
        raise SystemExit(f"prepare failed: {error}")


def unprepare(stub: api_pb2_grpc.DRAPluginStub, name: str) -> None:
    """Take one claim back; ends the program if that fails."""
    answer = stub.NodeUnprepareResources(api_pb2.NodeUnprepareResourcesRequest(claims=claims(name)))
    if error := answer.claims[claim_uid(name)].error:
        raise SystemExit(f"unprepare failed: {error}")


def seconds(call: Callable[[], object]) -> float:
    """Return how long one call takes."""
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def measure_calls(
    plugin: Plugin, floor: api_pb2_grpc.DRAPluginStub, stub: api_pb2_grpc.DRAPluginStub, rounds: int
) -> dict[str, list[float]]:
    """Return the seconds of each kind of call, made in turns."""
    http = urllib3.PoolManager()
    url = f"http://127.0.0.1:{plugin.api_port}/apis/resource.k8s.io/v1/namespaces/{NODE}/resourceclaims"
    empty = api_pb2.NodePrepareResourcesRequest()
    taken: dict[str, list[float]] = {}
    for number in range(-10, rounds):
        name = f"c{number + 10}"
        calls: dict[str, Callable[[], object]] = {
            "empty call + fsync (floor)": lambda: floor.NodePrepareResources(empty),
            "GET of a claim alone": lambda name=name: http.request("GET", f"{url}/{name}"),  # type: ignore[misc]
            "prepare": lambda name=name: prepare(stub, name),  # type: ignore[misc]
            "prepare again": lambda name=name: prepare(stub, name),  # type: ignore[misc]
            "unprepare": lambda name=name: unprepare(stub, name),  # type: ignore[misc]
        }
        for kind, call in calls.items():
            spent = seconds(call)
            if number >= 0:
                taken.setdefault(kind, []).append(spent)
    return taken


def idle_share(plugin: Plugin) -> float:
    """Return the share of one processor that the plugin uses while nobody asks it for anything."""
    before, start = plugin.processor_seconds(), time.monotonic()
    time.sleep(IDLE_SECONDS)
    return (plugin.processor_seconds() - before) / (time.monotonic() - start)


def quantile(values: list[float], share: float) -> float:
    """Return the value below which `share` of `values` lie."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]


def table(taken: dict[str, list[float]]) -> list[dict[str, object]]:
    """Return one row per kind of call: milliseconds, and the ratio to the floor of the same run."""
    floor = next(iter(taken.values()))
    return [
        {
            "call": kind,
            "p50_ms": round(quantile(values, 0.5) * 1e3, 3),
            "p99_ms": round(quantile(values, 0.99) * 1e3, 3),
            "p50_to_floor": round(quantile(values, 0.5) / quantile(floor, 0.5), 2),
            "p99_to_floor": round(quantile(values, 0.99) / quantile(floor, 0.99), 2),
        }
        for kind, values in taken.items()
    ]


def measure(rounds: int) -> dict[str, object]:
    """Start everything, measure, stop everything."""
    with contextlib.ExitStack() as stack:
        disk = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="fracgpu-bench-")))
        memory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="fracgpu-bench-", dir="/dev/shm")))
        socket, file = memory / "floor.sock", disk / "floor"
        with (
            process([sys.executable, str(HERE / "floor_server.py"), str(socket), str(file)]) as floor_process,
            running_plugin(disk, memory) as plugin,
            grpc.insecure_channel(f"unix:{socket}") as floor_channel,
            grpc.insecure_channel(f"unix:{plugin.socket}") as channel,
        ):
            floor_process.stdout.readline()
            stub = api_pb2_grpc.DRAPluginStub(channel)
            resident, idle = plugin.resident_bytes(), idle_share(plugin)
            taken = measure_calls(plugin, api_pb2_grpc.DRAPluginStub(floor_channel), stub, rounds)
            for number in range(HELD_CLAIMS):
                prepare(stub, f"held-{number}")
            return {
                "rounds": rounds,
                "python": platform.python_version(),
                "calls": table(taken),
                "resident_mib_at_start": resident >> 20,
                "resident_mib_after": plugin.resident_bytes() >> 20,
                "idle_processor_percent": round(100 * idle, 2),
                f"idle_processor_percent_with_{HELD_CLAIMS}_claims": round(100 * idle_share(plugin), 2),
            }


def main() -> None:
    """Measure, print, and write the numbers down if asked to."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--json", type=Path, help="also write the numbers here")
    parser.add_argument("--rounds", type=int, default=500, help="calls of each kind")
    arguments = parser.parse_args()
    result = measure(arguments.rounds)
    rows: Any = result["calls"]
    print(f"{'':28}{'p50 ms':>9}{'p99 ms':>9}{'p50/floor':>11}{'p99/floor':>11}")
    for row in rows:
        print(
            f"{row['call']:28}{row['p50_ms']:9.3f}{row['p99_ms']:9.3f}"
            f"{row['p50_to_floor']:11.2f}{row['p99_to_floor']:11.2f}"
        )
    for name, value in result.items():
        if name != "calls":
            print(f"{name}: {value}")
    if arguments.json:
        arguments.json.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()

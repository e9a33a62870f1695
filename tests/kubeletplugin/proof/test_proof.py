"""Proof with real processes: containers with real mounts under the shims, seen from outside, read from the API.

The embedded cluster runs pods; observer and reporter look at its node as the plugin's own would.
"""

import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from fracgpu.driver.gpu import Gpu
from fracgpu.driver.names import GpuUuid
from fracgpu.driver.process.background import Background
from fracgpu.driver.usage import GpuMemory, GpuProcess
from fracgpu.kubeletplugin.api.kubernetes_cluster import KubernetesCluster
from fracgpu.kubeletplugin.options import PluginOptions
from fracgpu.kubeletplugin.prepare.checkpoint import CheckpointStore
from fracgpu.kubeletplugin.prepare.files import Files
from fracgpu.kubeletplugin.proof.members import ClaimConsumers
from fracgpu.kubeletplugin.proof.observer import Observer
from fracgpu.kubeletplugin.proof.reporter import StatusReporter
from fracgpu.native.config_page import ConfigPage, encode_config_page
from fracgpu.native.fake_gpu import FakeGpuUsage, read_usage
from fracgpu.native.libraries import NativeLibraries
from fracgpu.native.state_file import new_state_file
from fracgpu.sim.lab.lab import Lab
from fracgpu.sim.lab.plugin_process import plugin_arguments
from fracgpu.sim.lab.stage import Stage
from fracgpu.sim.node.container import ContainerProcess

DEADLINE_SECONDS = 60.0
HOLD = ("fracgpu-hold", "driver", "100")
MIB = 1 << 20
ROOT = Path(__file__).resolve().parents[3]
# In the container: what lies at the first path where programs look, and the driver's own library behind the shim.
SHIM = f"/usr/lib/{os.uname().machine}-linux-gnu/libcuda.so.1"
REAL = "/run/fracgpu/driver/libcuda.so.1"
NAMESPACES = "-m" if os.geteuid() == 0 else "-Urm"


class MachineInventory:
    """GpuInventory of a modelled machine, read as its omniscient observer does: no NVML in the process of the tests."""

    def __init__(self, machine: Path) -> None:
        self._machine = machine

    def list_gpus(self) -> tuple[Gpu, ...]:
        return ()

    def processes(self, uuid: GpuUuid) -> tuple[GpuProcess, ...]:
        return tuple(GpuProcess(host_pid(one.pid), one.used_bytes) for one in self._usage(uuid).processes)

    def memory(self, uuid: GpuUuid) -> GpuMemory:
        usage = self._usage(uuid)
        return GpuMemory(usage.memory_bytes, usage.used_bytes, usage.memory_bytes - usage.used_bytes)

    def _usage(self, uuid: str) -> FakeGpuUsage:
        return next(one for one in read_usage(self._machine) if one.uuid == uuid)


def host_pid(pid: int) -> int:
    """The PID, in this namespace, of the program of ours that calls itself `pid` in its own."""
    for place in Path("/proc").glob("[0-9]*"):
        try:
            if (place / "comm").read_text().startswith("fracgpu-hold"):
                line = next(one for one in (place / "status").read_text().splitlines() if one.startswith("NSpid:"))
                if int(line.split()[-1]) == pid:
                    return int(place.name)
        except (OSError, StopIteration):
            continue
    return pid


class Proof:
    """Observer and reporter of a lab's node, and what the API says of its claims."""

    def __init__(self, lab: Lab) -> None:
        self.lab = lab
        options = PluginOptions.from_argv(plugin_arguments(lab.layout, lab.options))
        consumers = ClaimConsumers()
        self.cluster = KubernetesCluster(options.kubeconfig)
        reporter = StatusReporter(node_name=options.node_name, cluster=self.cluster, consumers=consumers)
        self.observer = Observer(
            options=options,
            inventory=MachineInventory(lab.layout.machine),
            checkpoints=CheckpointStore(options.state_dir / "checkpoint.json", Files()),
            consumers=consumers,
            machine=os.uname().machine,
            listeners=(reporter.observe,),
        )
        self.background = Background()
        self.background.start("observer", self.observer.run)
        self.background.start("claim-status", reporter.run)

    def stop(self) -> None:
        self.background.stop()
        self.cluster.close()

    def wait_for(self, claim: str, reason: str) -> dict[str, Any]:
        """Wait until Enforced of `claim` has this status and reason, and return the device's whole status."""
        device: dict[str, Any] = {}

        def reached(claims: dict[str, Any]) -> dict[str, Any] | None:
            nonlocal device
            devices = claims[claim].get("status", {}).get("devices") or [{}]
            device = devices[0]
            for one in device.get("conditions", ()):
                if one["type"] == "Enforced" and f"{one['status']}/{one['reason']}" == reason:
                    return device
            return None

        path = "/apis/resource.k8s.io/v1/namespaces/default/resourceclaims"
        return self.lab.wait_for(path, reached, what=f"Enforced={reason} of claim {claim}")


@pytest.fixture
def proof(native_build: NativeLibraries) -> Iterator[Proof]:
    with Lab() as lab:
        if not lab.isolation.mounts:
            pytest.skip("this machine allows no mount namespaces")
        one = Proof(lab)
        yield one
        one.stop()


@pytest.fixture
def pod(proof: Proof) -> str:
    """A pod with a claim of the same name, which holds nothing yet."""
    proof.lab.apply(Stage.prepare(proof.lab).manifest("one", 1024))
    proof.lab.wait_pod("one")
    return "one"


def end(process: ContainerProcess) -> None:
    process.terminate()
    process.communicate()


def hold(lab: Lab, name: str, *before: str) -> ContainerProcess:
    """Start a program in the pod that holds 100 MiB, and wait until it does."""
    process = lab.spawn(name, [*before, *HOLD])
    seen = next(process.lines(), b"")
    assert b'"ready": true' in seen, seen
    return process


def message(device: dict[str, Any], kind: str = "Enforced") -> str:
    (found,) = [one["message"] for one in device["conditions"] if one["type"] == kind]
    return str(found)


def test_a_process_under_the_shim_is_enforced(proof: Proof, pod: str) -> None:
    device = proof.wait_for(pod, "Unknown/NoProcess")
    assert device["data"]["memoryLimitBytes"] == 1024 * MIB
    holder = hold(proof.lab, pod)
    device = proof.wait_for(pod, "True/InterceptorAttached")
    assert {one["type"]: one["status"] for one in device["conditions"]} == {
        "Prepared": "True",
        "Enforced": "True",
        "WithinLimit": "True",
        "Compatible": "True",
    }
    assert "1 process has the interceptor with the memory limit 1024Mi" in message(device)
    assert device["pool"] == proof.lab.options.node_name
    end(holder)
    proof.wait_for(pod, "Unknown/NoProcess")


def test_the_drivers_library_over_the_shim_is_found(proof: Proof, pod: str) -> None:
    script = f'mount --bind {REAL} {SHIM} && exec "$@"'
    holder = hold(proof.lab, pod, "unshare", NAMESPACES, "sh", "-c", script, "sh")
    device = proof.wait_for(pod, "False/LibraryReplaced")
    assert f"(fracgpu-hold) uses a driver library without limits: at {SHIM} lies " in message(device)
    assert "libcuda.so.580.65.06 of device" in message(device)
    events = {(e["involvedObject"]["kind"], e["type"], e["reason"]) for e in proof.lab.events()}
    wanted = {("Pod", "Warning", "LibraryReplaced"), ("ResourceClaim", "Warning", "LibraryReplaced")}
    end_time = time.monotonic() + DEADLINE_SECONDS
    while not wanted <= events and time.monotonic() < end_time:
        threading.Event().wait(0.1)
        events = {(e["involvedObject"]["kind"], e["type"], e["reason"]) for e in proof.lab.events()}
    assert wanted <= events
    end(holder)
    proof.wait_for(pod, "Unknown/NoProcess")


def test_a_page_of_limits_that_the_container_made_itself_is_found(proof: Proof, pod: str, tmp_path: Path) -> None:
    """No right is needed for it but to be the container's root user, and the interceptor takes it for one of ours."""
    gpu_uuid = proof.wait_for(pod, "Unknown/NoProcess")["data"]["gpuUUID"]
    page = ConfigPage(allocation_id="zz", device_uuid=gpu_uuid, memory_limit_bytes=40960 * MIB, cores_percent=0)
    (tmp_path / "config").write_bytes(encode_config_page(page))
    (tmp_path / "state").write_bytes(new_state_file(gpu_uuid))
    place = "/run/fracgpu/allocations/zz"
    script = f'mkdir {place} && cp {tmp_path}/config {tmp_path}/state {place} && exec "$@"'
    holder = hold(proof.lab, pod, "sh", "-c", script, "sh")
    device = proof.wait_for(pod, "False/ConfigPageReplaced")
    assert f"a page of limits that the plugin did not make: at {place}/config lies " in message(device)
    end(holder)


def test_a_process_that_loads_the_driver_itself_is_found(proof: Proof, pod: str) -> None:
    shimmed = hold(proof.lab, pod)
    proof.wait_for(pod, "True/InterceptorAttached")
    bypassing = hold(proof.lab, pod, "env", "LD_LIBRARY_PATH=/run/fracgpu/driver")
    device = proof.wait_for(pod, "False/LibraryNotLoaded")
    assert f"process {host_pid(bypassing.pid)} (fracgpu-hold), one of 2, uses the GPU" in message(device)
    end(bypassing)
    proof.wait_for(pod, "True/InterceptorAttached")
    end(shimmed)


@pytest.fixture(scope="module")
def static_holder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A static program with the model's driver linked into it; its name is that of the probe."""
    program = tmp_path_factory.mktemp("static") / "fracgpu-hold"
    fake = ROOT / "native" / "fake"
    sources = [path for path in sorted(fake.glob("*.c")) if not path.name.startswith("nvml")]
    compiler = [sys.executable, "-m", "ziglang", "cc", "-target", "x86_64-linux-musl", "-static", "-std=c11", "-O1"]
    holder = Path(__file__).with_name("static_holder.c")
    subprocess.run([*compiler, "-w", f"-I{fake}", holder, *sources, "-lpthread", "-o", program], check=True)
    return program


def test_a_static_program_is_found(proof: Proof, pod: str, static_holder: Path) -> None:
    """Nothing can be put in front of its driver; that it holds memory without a slot is what shows."""
    holder = proof.lab.spawn(pod, [str(static_holder)])
    assert b'"ready": true' in next(holder.lines(), b"")
    device = proof.wait_for(pod, "False/LibraryNotLoaded")
    assert f"process {host_pid(holder.pid)} (fracgpu-hold) uses the GPU" in message(device)
    end(holder)
    proof.wait_for(pod, "Unknown/NoProcess")


def test_a_process_in_a_pid_namespace_of_its_own_is_recognised(proof: Proof, pod: str) -> None:
    command = ["unshare", "-pf" if os.geteuid() == 0 else "-Urpf", "--mount-proc"]
    if proof.lab.execute(pod, [*command, "true"]).exit_code != 0:
        pytest.skip("this machine allows no PID namespaces")
    holder = hold(proof.lab, pod, *command)
    proof.wait_for(pod, "True/InterceptorAttached")
    holder.kill()
    holder.communicate()


def test_a_process_outside_of_pods_is_foreign(proof: Proof, pod: str, native_build: NativeLibraries) -> None:
    proof.wait_for(pod, "Unknown/NoProcess")
    latest = proof.observer.latest()
    assert latest is not None
    assert [gpu.foreign_processes for gpu in latest.gpus] == [0]
    environment = {
        "FRACGPU_FAKE_GPU": str(proof.lab.layout.machine),
        "LD_LIBRARY_PATH": str(native_build.directory / "fake"),
    }
    foreign = subprocess.Popen([native_build.probe("fracgpu-hold"), *HOLD[1:]], env=environment, stdout=subprocess.PIPE)
    try:
        assert foreign.stdout is not None
        assert b'"ready": true' in foreign.stdout.readline()
        before = datetime.now(UTC)
        end_time = time.monotonic() + DEADLINE_SECONDS
        while time.monotonic() < end_time:
            latest = proof.observer.latest()
            if latest and latest.allocations[0].observed_at > before and latest.gpus[0].foreign_processes:
                break
            threading.Event().wait(0.1)
        assert latest is not None
        assert (latest.gpus[0].foreign_processes, latest.allocations[0].processes) == (1, 0)
    finally:
        foreign.terminate()
        foreign.communicate()

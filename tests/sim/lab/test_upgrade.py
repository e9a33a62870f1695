"""The life of a node in the lab: rolling update, kubelet restart, reboot, a GPU that is lost and comes back.

Real plugin processes, real pods on the model GPU. What must hold throughout: a pod that runs goes on allocating, and is
refused at its limit, whatever happens to the plugin.
"""

import json
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from fracgpu.driver.names import DRIVER_NAME
from fracgpu.kubeletplugin.api.kubernetes_cluster import KubernetesCluster
from fracgpu.kubeletplugin.janitor.janitor import Janitor
from fracgpu.kubeletplugin.options import PluginOptions
from fracgpu.native.fake_gpu import set_lost
from fracgpu.native.libraries import DIRECTORY_ENV, NativeLibraries, library_digest
from fracgpu.sim.lab.lab import RESOURCE_API, Lab
from fracgpu.sim.lab.options import LabOptions
from fracgpu.sim.lab.plugin_process import PluginProcess, plugin_arguments, plugin_env
from fracgpu.sim.lab.stage import Stage
from fracgpu.sim.node.api import Json
from fracgpu.sim.node.node import Node
from fracgpu.sim.node.timings import Timings

SLICES = f"{RESOURCE_API}/resourceslices"
LIMIT_MIB = 1024
DEADLINE_S = 90.0
# Says after each round how many rounds there were; ends when anything is not as it must be.
WORKER = f"""\
import itertools, json, time
from cuda.bindings import runtime as cuda
for number in itertools.count(1):
    error, kept = cuda.cudaMalloc({LIMIT_MIB // 2} << 20)
    assert not int(error), error
    refused, _ = cuda.cudaMalloc({LIMIT_MIB} << 20)
    assert int(refused) == 2, refused
    error, = cuda.cudaFree(kept)
    assert not int(error), error
    print(json.dumps(number), flush=True)
    time.sleep(0.05)
"""


class Worker:
    """A program in a pod that allocates and is refused, round after round."""

    def __init__(self, lab: Lab, pod: str) -> None:
        self._process = lab.spawn(pod, ["python3", "-c", WORKER])
        self._lines = self._process.lines()
        self.rounds = 0

    def more(self) -> None:
        """Wait for rounds that began after this call: what was written before may lie in the pipe still."""
        before = self.rounds
        end = time.monotonic() + 0.3
        while self.rounds < before + 3 or time.monotonic() < end:
            line = next(self._lines, None)
            assert line is not None, self._process.communicate()[1].decode()
            self.rounds = json.loads(line)

    def stop(self) -> None:
        self._process.terminate()
        self._process.communicate()


def wait_until(holds: Callable[[], Any], what: str) -> None:
    end = time.monotonic() + DEADLINE_S
    while not holds():
        assert time.monotonic() < end, what
        time.sleep(0.05)


def make_plugin(lab: Lab, uid: str, libraries: Path | None = None) -> PluginProcess:
    env = plugin_env(lab.layout) | ({} if libraries is None else {DIRECTORY_ENV: str(libraries)})
    log = lab.layout.base / f"plugin-{uid}.log"
    return PluginProcess([*plugin_arguments(lab.layout, lab.options), f"--pod-uid={uid}"], env=env, log=log)


def socket_names(lab: Lab) -> set[str]:
    places = (lab.layout.plugin_dir, lab.layout.registry_dir)
    return {path.name for place in places if place.exists() for path in place.iterdir()}


def names_of(uid: str) -> set[str]:
    return {f"dra-{uid}.sock", f"{DRIVER_NAME}-{uid}-reg.sock"}


def wait_published(lab: Lab, plugin: PluginProcess) -> Json:
    wait_until(lambda: plugin.exit_code is not None or lab.node.plugin_instances(DRIVER_NAME), "registration")
    assert plugin.exit_code is None, plugin.log_tail()

    def ours(slices: dict[str, Json]) -> Json | None:
        return next((item for item in slices.values() if item["spec"]["driver"] == DRIVER_NAME), None)

    return lab.wait_for(SLICES, ours, what="slice")


def cdi_spec(lab: Lab, pod: str) -> str:
    (claim,) = lab.claims_of(lab.pod(pod))
    return (lab.layout.cdi_dir / f"{DRIVER_NAME}-claim_{claim['metadata']['uid']}.json").read_text()


def remove(lab: Lab, pod: str) -> None:
    lab.delete_pod(pod)
    lab.api.delete(f"{RESOURCE_API}/namespaces/default/resourceclaims/{pod}")


@pytest.fixture
def lab(native_build: NativeLibraries) -> Iterator[Lab]:
    """A lab without a plugin: the tests start their own."""
    options = LabOptions(plugin=False, timings=Timings(health_retry=0.2, slice_wipe_grace=3.0), deadline_s=DEADLINE_S)
    with Lab(options) as running:
        yield running


@pytest.fixture
def version_b(native_build: NativeLibraries, tmp_path: Path) -> Path:
    """The same libraries with other content, which is what tells versions apart."""
    other = tmp_path / "native-b"
    shutil.copytree(native_build.directory, other, ignore=shutil.ignore_patterns("objects", "test", "sanitize"))
    for library in (other / "container").iterdir():
        with library.open("ab") as file:
            file.write(b"another build")
    return other


def digest_of(libraries: NativeLibraries) -> str:
    return library_digest(libraries.interceptor)


@pytest.mark.parametrize("killed", [False, True], ids=["SIGTERM", "SIGKILL"])
def test_an_upgrade_disturbs_no_pod_and_gives_new_pods_the_new_library(
    lab: Lab, native_build: NativeLibraries, version_b: Path, killed: bool
) -> None:
    a, b = digest_of(native_build), digest_of(NativeLibraries(version_b))
    lab.plugin = make_plugin(lab, "a")
    with lab.plugin:
        wait_published(lab, lab.plugin)
        stage = Stage.prepare(lab)
        lab.apply(stage.manifest("on-a", LIMIT_MIB))
        lab.wait_pod("on-a")
        assert a in cdi_spec(lab, "on-a")
        worker = Worker(lab, "on-a")
        worker.more()
        with make_plugin(lab, "b", version_b) as new:
            wait_until(lambda: len(lab.node.plugin_instances(DRIVER_NAME)) == 2, new.log_tail())
            wait_until(lambda: socket_names(lab) == names_of("a") | names_of("b"), str(socket_names(lab)))
            worker.more()
            _end(lab, killed=killed)
            worker.more()
            lab.apply(stage.manifest("on-b", LIMIT_MIB))
            lab.wait_pod("on-b")
            assert b in cdi_spec(lab, "on-b")
            assert a not in cdi_spec(lab, "on-b")
            newer = Worker(lab, "on-b")
            newer.more()
            worker.more()
            wait_until(lambda: socket_names(lab) == names_of("b"), "sockets of the plugin that ended")
            assert len([item for item in lab.api.get(SLICES)["items"] if item["spec"]["driver"] == DRIVER_NAME]) == 1
            _check_collection(lab, worker, a, b)
            newer.more()
            newer.stop()


def _end(lab: Lab, *, killed: bool) -> None:
    if killed:
        assert lab.plugin._process is not None
        lab.plugin._process.kill()
        wait_until(lambda: lab.plugin.exit_code is not None, "end of a killed plugin")
    else:
        lab.plugin.__exit__(None, None, None)
        assert lab.plugin.exit_code == 0, lab.plugin.log_tail()
        assert not socket_names(lab) & names_of("a")


def _check_collection(lab: Lab, worker: Worker, a: str, b: str) -> None:
    """The former version's library stays while a pod uses it, and goes with the last one."""
    options = PluginOptions.from_argv(plugin_arguments(lab.layout, lab.options))
    cluster = KubernetesCluster(lab.layout.kubeconfig)
    janitor = Janitor(options=options, cluster=cluster, library_digest=b, grace_seconds=0)
    libraries = lab.layout.state_dir / "lib"
    for _ in range(3):
        janitor.sweep()
    assert {path.name for path in libraries.iterdir()} == {a, b}
    worker.more()
    worker.stop()
    remove(lab, "on-a")

    def swept() -> bool:
        # Not always at once: a process that was just killed may still be seen, and the claim waits for its end.
        janitor.sweep()
        return {path.name for path in libraries.iterdir()} == {b}

    wait_until(swept, "the end of the former version's library")
    cluster.close()


def test_a_restarted_kubelet_finds_the_plugin_and_gets_the_slice_back(lab: Lab) -> None:
    with make_plugin(lab, "a") as plugin:
        first = wait_published(lab, plugin)
        lab.node._registry.stop()
        # What a kubelet does at its start: it wipes the slices, and finds the sockets that are there.
        lab.node._janitor.wipe()
        from fracgpu.sim.node.plugin_registry import PluginRegistry

        registry = PluginRegistry(lab.layout.registry_dir)
        registry.start()
        try:
            assert registry.wait_for(DRIVER_NAME, DEADLINE_S)
            again = lab.wait_for(
                SLICES,
                lambda slices: next(
                    (item for item in slices.values() if item["metadata"]["uid"] != first["metadata"]["uid"]), None
                ),
                what="slice published again",
            )
            assert again["spec"]["devices"] == first["spec"]["devices"]
        finally:
            registry.stop()


def test_wiped_kubelet_directories_are_made_anew_and_pods_start(lab: Lab) -> None:
    with make_plugin(lab, "a") as plugin:
        wait_published(lab, plugin)
        for place in (lab.layout.plugin_dir, lab.layout.registry_dir):
            shutil.rmtree(place)
        wait_until(lambda: socket_names(lab) == names_of("a"), plugin.log_tail())
        stage = Stage.prepare(lab)
        lab.apply(stage.manifest("one", LIMIT_MIB))
        lab.wait_pod("one")
        worker = Worker(lab, "one")
        worker.more()
        worker.stop()


def test_slices_go_when_the_plugin_stays_away_and_come_back_with_it(lab: Lab) -> None:
    with make_plugin(lab, "a") as plugin:
        wait_published(lab, plugin)
        # The file of a killed plugin's socket stays; that nobody is connected is what counts.
        assert plugin._process is not None
        plugin._process.kill()
        lab.wait_for(SLICES, lambda slices: None if slices else True, what="wiped slices")
    with make_plugin(lab, "a") as plugin:
        wait_published(lab, plugin)


def test_after_a_reboot_the_same_pod_runs_again_under_its_limit(lab: Lab) -> None:
    with make_plugin(lab, "a") as plugin:
        wait_published(lab, plugin)
        stage = Stage.prepare(lab)
        lab.apply(stage.manifest("one", LIMIT_MIB).replace("restartPolicy: Never", "restartPolicy: Always"))
        lab.wait_pod("one")
        spec = cdi_spec(lab, "one")
        lab.node.__exit__(None, None, None)
    for volatile in (lab.layout.cdi_dir, lab.layout.run_dir, lab.layout.plugin_dir, lab.layout.registry_dir):
        shutil.rmtree(volatile)
    lab.node = Node(lab._node_options())
    with make_plugin(lab, "a"), lab.node:
        lab.wait_for(
            "/api/v1/namespaces/default/pods",
            lambda pods: True if _restarts(pods["one"]) else None,
            what="restarted container",
        )
        assert cdi_spec(lab, "one") == spec
        worker = Worker(lab, "one")
        worker.more()
        worker.stop()


def _restarts(pod: Json) -> bool:
    (status,) = pod["status"]["containerStatuses"]
    return bool(status["restartCount"] and "running" in status["state"])


def test_a_lost_gpu_is_tainted_shown_on_the_pod_and_comes_back(lab: Lab) -> None:
    (gpu,) = lab.gpus
    with make_plugin(lab, "a") as plugin:
        wait_published(lab, plugin)
        stage = Stage.prepare(lab)
        lab.apply(stage.manifest("one", LIMIT_MIB))
        lab.wait_pod("one")
        worker = Worker(lab, "one")
        _wait_health(lab, "Healthy")
        set_lost(lab.layout.machine, gpu.uuid, lost=True)
        (device,) = _wait_devices(lab, lambda device: "taints" in device)
        assert device["taints"][0] | {"timeAdded": ""} == {
            "key": f"{DRIVER_NAME}/unhealthy",
            "effect": "NoSchedule",
            "timeAdded": "",
        }
        _wait_health(lab, "Unhealthy")
        worker.more()
        set_lost(lab.layout.machine, gpu.uuid, lost=False)
        _wait_devices(lab, lambda device: "taints" not in device)
        _wait_health(lab, "Healthy")
        worker.more()
        worker.stop()
        writes = [line for line in plugin.log_tail(10_000).splitlines() if 'msg="slice published"' in line]
        assert len(writes) == 3, writes


def _wait_devices(lab: Lab, holds: Callable[[Json], bool]) -> list[Json]:
    def seen(slices: dict[str, Json]) -> list[Json] | None:
        (item,) = slices.values()
        devices: list[Json] = item["spec"]["devices"]
        return devices if all(map(holds, devices)) else None

    return lab.wait_for(SLICES, seen, what="devices of the slice")


def _wait_health(lab: Lab, health: str) -> None:
    def shown(pods: dict[str, Json]) -> bool | None:
        (container,) = pods["one"]["status"]["containerStatuses"]
        resources = [one for entry in container.get("allocatedResourcesStatus", ()) for one in entry["resources"]]
        return True if [one["health"] for one in resources] == [health] else None

    lab.wait_for("/api/v1/namespaces/default/pods", shown, what=f"health {health}")

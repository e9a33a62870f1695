"""A plugin that is killed at each step of its start; the next one starts as if nothing had been.

Real processes, a real SIGKILL, real sockets, the emulated API server.
"""

import contextlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import pytest

from fracgpu.driver.names import DRIVER_NAME
from fracgpu.native.fake_gpu import MACHINE_ENV, FakeGpuSpec, create_machine
from fracgpu.native.libraries import NativeLibraries
from fracgpu.proto.pluginregistration.v1 import api_pb2, api_pb2_grpc
from fracgpu.sim.api.server import ApiServer
from fracgpu.sim.lab.machine import make_driver_root
from fracgpu.sim.node.api import Json, KubeApi

NURSERY = Path(__file__).parent / "programs" / "plugin_nursery.py"
NODE = "n1"
SLICES = "/apis/resource.k8s.io/v1/resourceslices"
UUID = "GPU-12345678-1111-1111-1111-111111111111"
DEADLINE_S = 60.0
# With the interceptor stored already: two directories with two effects each, two sockets with three, the slice, and
# the sockets again when the plugin stops.
FEWEST_POINTS = 13


def wait_until(holds: Callable[[], Any], what: str) -> None:
    end = time.monotonic() + DEADLINE_S
    while not holds():
        assert time.monotonic() < end, what
        time.sleep(0.01)


@dataclass
class Site:
    """A node's directories, its API server, and the nursery of its plugins."""

    root: Path
    api: KubeApi
    nursery: subprocess.Popen[str]

    def _say(self, line: str) -> int:
        assert self.nursery.stdin is not None
        assert self.nursery.stdout is not None
        self.nursery.stdin.write(f"{line}\n")
        self.nursery.stdin.flush()
        return int(self.nursery.stdout.readline())

    @property
    def log(self) -> Path:
        return self.root / "log"

    def start(self, *, kill_at: int | str | None = None, uid: str = "u1") -> int:
        self.log.unlink(missing_ok=True)
        arguments = [
            f"--node-name={NODE}",
            f"--pod-uid={uid}",
            f"--kubeconfig={self.root}/kubeconfig",
            f"--driver-root={self.root}/driver",
            f"--dev-root={self.root}/driver",
            f"--plugin-dir={self.root}/p",
            f"--registry-dir={self.root}/r",
            f"--cdi-dir={self.root}/cdi",
            f"--state-dir={self.root}/state",
            f"--run-dir={self.root}/run",
        ]
        return self._say(json.dumps({"arguments": arguments, "log": str(self.log), "kill_at": kill_at}))

    def ended(self) -> int:
        return self._say("")

    def run_and_stop(self) -> None:
        """Start a plugin, wait until all is as it must be, stop it and see that it takes its sockets away."""
        plugin = self.start()
        wait_until(lambda: len(self.sockets()) == 2, self.said())
        wait_until(lambda: self.registered_endpoint() == str(self.root / "p/dra-u1.sock"), self.said())
        wait_until(self.right_slices, self.said())
        assert self.sockets() == {"dra-u1.sock", f"{DRIVER_NAME}-u1-reg.sock"}
        os.kill(plugin, signal.SIGTERM)
        assert self.ended() == 0, self.said()
        assert self.sockets() == set()
        assert self.right_slices()

    def said(self) -> str:
        return self.log.read_text() if self.log.exists() else ""

    def sockets(self) -> set[str]:
        return {path.name for place in ("p", "r") for path in (self.root / place).glob("*")}

    def slices(self) -> list[Json]:
        items: list[Json] = self.api.get(SLICES)["items"]
        return items

    def right_slices(self) -> bool:
        found = [(item["spec"]["nodeName"], [d["name"] for d in item["spec"]["devices"]]) for item in self.slices()]
        return found == [(NODE, ["gpu-12345678"])]

    def registered_endpoint(self) -> str | None:
        """Do what the kubelet does; None while nobody answers."""
        path = self.root / "r" / f"{DRIVER_NAME}-u1-reg.sock"
        # Channels of one process share their connections, and how long they wait after a failed one.
        with grpc.insecure_channel(f"unix:{path}", options=[("grpc.use_local_subchannel_pool", 1)]) as channel:
            kubelet = api_pb2_grpc.RegistrationStub(channel)
            try:
                info = kubelet.GetInfo(api_pb2.InfoRequest(), timeout=5)
            except grpc.RpcError:
                return None
            # The plugin may be killed by what follows from this, before it has answered.
            with contextlib.suppress(grpc.RpcError):
                kubelet.NotifyRegistrationStatus(api_pb2.RegistrationStatus(plugin_registered=True), timeout=5)
        return str(info.endpoint)


@pytest.fixture
def site(native_build: NativeLibraries, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    root = tmp_path_factory.mktemp("k")
    create_machine(root / "machine", [FakeGpuSpec(uuid=UUID, memory_bytes=24 << 30)])
    make_driver_root(root / "driver", native_build, gpus=1)
    nursery = subprocess.Popen(
        [sys.executable, str(NURSERY)],
        env={**os.environ, MACHINE_ENV: str(root / "machine")},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    with ApiServer() as server, nursery:
        server.write_kubeconfig(root / "kubeconfig")
        api = KubeApi(server.url)
        api.create("/api/v1/nodes", {"apiVersion": "v1", "kind": "Node", "metadata": {"name": NODE}})
        yield Site(root, api, nursery)
        assert nursery.stdin is not None
        nursery.stdin.close()


def test_a_plugin_killed_at_any_step_of_start_and_stop_is_followed_by_one_that_works(site: Site) -> None:
    # The interceptor is stored once; being killed in that has tests of its own.
    site.run_and_stop()
    points: list[str] = []
    while True:
        for item in site.slices():
            site.api.delete(f"{SLICES}/{item['metadata']['name']}")
        for place in ("p", "r"):
            shutil.rmtree(site.root / place)
        plugin = site.start(kill_at=len(points) + 1)
        reached = re.compile(rf"^kill point {len(points) + 1}: (.*)$", re.MULTILINE)
        wait_until(
            lambda: reached.search(site.said()) or (site.registered_endpoint() and site.right_slices()),  # noqa: B023
            site.said(),
        )
        if not reached.search(site.said()):
            os.kill(plugin, signal.SIGTERM)
        if site.ended() == 0:
            break
        found = reached.search(site.said())
        assert found is not None, site.said()
        points.append(found[1])
        site.run_and_stop()
    assert len(points) >= FEWEST_POINTS, points
    assert points.count("bind of a socket") == 2
    assert points.count("creation of the slice") == 1
    # Nothing is published before the kubelet has answered; the two sockets are taken away at the end.
    assert points.index("creation of the slice") == len(points) - 3


def _spoil_devices(site: Site, item: Json) -> None:
    site.api.replace(f"{SLICES}/{item['metadata']['name']}", {**item, "spec": {**item["spec"], "devices": []}})


def _renew_node(site: Site, item: Json) -> None:
    """Delete the Node, with which the slice goes, and create it anew: another object of the same name."""
    node = {"apiVersion": "v1", "kind": "Node", "metadata": {"name": item["spec"]["nodeName"]}}
    site.api.delete(f"/api/v1/nodes/{NODE}")
    site.api.create("/api/v1/nodes", node)
    wait_until(lambda: not site.slices(), "collection of the slice")


def _add_a_second(site: Site, item: Json) -> None:
    metadata = {"name": "left-by-an-older-version", "ownerReferences": item["metadata"]["ownerReferences"]}
    kind = {"apiVersion": "resource.k8s.io/v1", "kind": "ResourceSlice"}
    site.api.create(SLICES, {**kind, "metadata": metadata, "spec": item["spec"]})


@pytest.mark.parametrize(
    ("spoil", "effect"),
    [
        (_spoil_devices, "replacement of the slice"),
        (_renew_node, "creation of the slice"),
        (_add_a_second, "deletion of a slice"),
    ],
    ids=["devices", "node", "second"],
)
def test_a_plugin_killed_before_it_puts_slices_right_is_followed_by_one_that_does(
    site: Site, spoil: Callable[[Site, Json], None], effect: str
) -> None:
    site.run_and_stop()
    (item,) = site.slices()
    spoil(site, item)
    spoilt = site.slices()
    site.start(kill_at=effect)
    wait_until(site.registered_endpoint, site.said())
    assert site.ended() == -signal.SIGKILL
    assert site.slices() == spoilt
    site.run_and_stop()
    (item,) = site.slices()
    assert item["metadata"]["ownerReferences"][0]["uid"] == site.api.get(f"/api/v1/nodes/{NODE}")["metadata"]["uid"]

"""A program that allocates and is refused at its limit, round after round, as a container's own command.

It talks to nobody, so kubelet, API server and container runtime may go away under it. How often it was refused is read
from its allocation's state file on the node: the interceptor counts, so a program that runs without a limit counts
nothing, and one that is refused too early, or not at all, ends and fails its pod.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from fracgpu.native.state_file import StateSnapshot, read_state_file
from fracgpu.sim.lab.allocations import allocation_directory
from fracgpu.sim.node.api import Json
from tests.cluster.client import ClusterClient
from tests.cluster.eventually import eventually
from tests.cluster.machine.layout import PLUGIN_RUN
from tests.cluster.manifests import MIB, claim, document, pod

_PROGRAM = """\
import ctypes, sys, time
limit = int(sys.argv[1])
cuda = ctypes.CDLL("libcuda.so.1")
def call(name, *arguments, wanted=0):
    code = getattr(cuda, name)(*arguments)
    assert code == wanted, f"{name}: {code}, not {wanted}"
device, context, kept, other = ctypes.c_int(), ctypes.c_void_p(), ctypes.c_uint64(), ctypes.c_uint64()
call("cuInit", 0)
call("cuDeviceGet", ctypes.byref(device), 0)
call("cuDevicePrimaryCtxRetain", ctypes.byref(context), device)
call("cuCtxSetCurrent", context)
while True:
    call("cuMemAlloc_v2", ctypes.byref(kept), ctypes.c_size_t(limit // 2))
    call("cuMemAlloc_v2", ctypes.byref(other), ctypes.c_size_t(limit), wanted=2)
    call("cuMemFree_v2", kept)
    time.sleep(0.05)
"""


@dataclass(frozen=True, slots=True)
class Worker:
    """A pod with that program, and its claim of the same name."""

    cluster: ClusterClient
    namespace: str
    name: str

    @classmethod
    def start(
        cls, cluster: ClusterClient, namespace: str, name: str, *, mib: int = 1024, restart: str = "Never"
    ) -> Worker:
        """Create claim and pod and wait until the program has been refused."""
        worker = cls(cluster, namespace, name)
        worker.create(mib=mib, restart=restart)
        cluster.wait_pod(name, namespace=namespace)
        worker.more()
        return worker

    def create(self, *, mib: int = 1024, restart: str = "Never") -> None:
        """Create claim and pod without waiting."""
        command = ["python3", "-c", _PROGRAM, str(mib * MIB)]
        objects = document(claim(self.name, f"{mib}Mi"), pod(self.name, command, restart=restart))
        self.cluster.apply(objects, self.namespace)

    def pod(self) -> Json:
        """Return the pod."""
        return self.cluster.pod(self.name, self.namespace)

    def claim(self) -> Json:
        """Return the claim."""
        return self.cluster.claim(self.name, self.namespace)

    def allocation(self) -> Path:
        """Return the directory of the allocation on the node."""
        return allocation_directory(PLUGIN_RUN, self.claim())

    def state(self) -> StateSnapshot:
        """Return what the interceptor has counted."""
        return read_state_file(self.allocation() / "state")

    def container(self) -> tuple[str, int]:
        """Return the id of the container and how often it was restarted."""
        (status,) = self.pod()["status"]["containerStatuses"]
        return str(status.get("containerID", "")), int(status["restartCount"])

    def more(self, allocation: Path | None = None) -> None:
        """Wait until the program has been refused three times more.

        With `allocation` the API server is not asked.
        """
        state = (allocation or self.allocation()) / "state"
        before = read_state_file(state).refusals
        eventually(lambda: read_state_file(state).refusals >= before + 3, what=f"refusals of {self.name}")

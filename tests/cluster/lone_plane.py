"""A control plane without a node: a real API server, scheduler and controllers, for what is decided there alone.

It has what an installation brings, up to the pods, and starts in seconds, with whichever gates a test wants; the
run's own cluster is not touched. Nodes are objects without a kubelet.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import shutil
import ssl
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from fracgpu.sim import manifests
from fracgpu.sim.lab.errors import LabTimeout
from tests.cluster.build.artifacts import Artifacts
from tests.cluster.components.control_plane import ControlPlane, ControlPlaneOptions, Ports
from tests.cluster.kubectl import Kubectl
from tests.cluster.machine.layout import Layout
from tests.deploy.rights import make_node, make_slice
from tests.deploy.servers import Answer, Requests

Json = dict[str, Any]
NAMESPACE: Final = "fracgpu-system"
ACCOUNT: Final = "fracgpu-kubeletplugin"
# Everything of deploy/ but DaemonSet and Deployment, in the order in which one needs the other.
SHIPPED: Final = (
    "namespace.yaml",
    "kubelet-plugin-rbac.yaml",
    "kubelet-plugin-policy.yaml",
    "claims-policy.yaml",
    "parameters-policy.yaml",
    "deviceclasses.yaml",
    "quota-crd.yaml",
    "quota-policy.yaml",
    "controller-rbac.yaml",
)
_DEADLINE_S: Final = 60.0
_LOOK_S: Final = 0.1


@dataclass(frozen=True)
class LonePlane:
    """A running control plane as a `tests.deploy.servers.Server`, with kubectl; `directory` is free to use."""

    plane: ControlPlane
    kubectl: Kubectl
    directory: Path

    @property
    def admin(self) -> Requests:
        """Requests of an administrator."""
        return Requests(self.plane.server, tls=self.plane.tls)

    def user(self, namespace: str, account: str, *, node: str = "") -> Requests:
        """Return requests with a token of a service account; of a pod on `node`, which is made if need be."""
        return self.with_token(self.token(namespace, account, node=node))

    def with_token(self, token: str) -> Requests:
        """Return requests of whoever holds a token."""
        return Requests(self.plane.server, tls=self._tls(), headers={"Authorization": f"Bearer {token}"})

    def kubelet(self, node: str) -> Requests:
        """Return requests with the identity of a node's kubelet."""
        pair = self.plane.authority.client(f"kubelet-{node}", user=f"system:node:{node}", groups=["system:nodes"])
        tls = self._tls()
        tls.load_cert_chain(pair.certificate, pair.key)
        return Requests(self.plane.server, tls=tls)

    def token(self, namespace: str, account: str, *, node: str = "") -> str:
        """Return a token as the kubelet gets it for a pod on `node`; bound to no pod if `node` is empty."""
        spec: Json = {"expirationSeconds": 3600}
        if node:
            spec["boundObjectRef"] = self._pod(namespace, account, node)
        body = {"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": spec}
        path = f"/api/v1/namespaces/{namespace}/serviceaccounts/{account}/token"
        return str(self.create(path, body)["status"]["token"])

    def kubeconfig(self, name: str, *, account: str = ACCOUNT, namespace: str = NAMESPACE, node: str) -> Path:
        """Write a kubeconfig with such a token in a file beside it; return its path."""
        token_file = self.directory / f"{name}.token"
        token_file.write_text(self.token(namespace, account, node=node))
        cluster = {"server": self.plane.server, "certificate-authority": str(self.plane.authority.certificate)}
        document = {
            "apiVersion": "v1",
            "kind": "Config",
            "current-context": "e2e",
            "contexts": [{"name": "e2e", "context": {"cluster": "e2e", "user": "e2e"}}],
            "clusters": [{"name": "e2e", "cluster": cluster}],
            "users": [{"name": "e2e", "user": {"tokenFile": str(token_file)}}],
        }
        path = self.directory / f"{name}.kubeconfig"
        path.write_text(json.dumps(document))
        return path

    def create(self, path: str, body: Json) -> Json:
        """Create an object as administrator and return it; it must not be refused."""
        answer = self.admin.send("POST", path, body)
        assert answer.code == 201, answer.raw
        return answer.body

    def install(self) -> None:
        """Apply the shipped manifests and wait until the policies among them are in force."""
        for name in SHIPPED:
            self.kubectl.output("apply", "-f", "-", stdin=manifests.shipped(name))
        self.await_policies()
        # Pods run as it unless they say otherwise; a controller makes it.
        account = "/api/v1/namespaces/default/serviceaccounts/default"
        self.wait(lambda: self.admin.send("GET", account).code == 200, what="the account of pods")

    def await_policies(self) -> None:
        """Wait until the API server applies all policies: it compiles them in the background."""
        plugin = self.user(NAMESPACE, ACCOUNT)
        dry_run = "/apis/resource.k8s.io/v1/{}?dryRun=All".format
        claims, classes = dry_run("namespaces/default/resourceclaims"), dry_run("deviceclasses")
        foreign = make_slice("probe", "nowhere", "probe.example.com")
        for what, look in {
            "the policy on slices": lambda: plugin.send("POST", dry_run("resourceslices"), foreign),
            "the policy on claims": lambda: self.admin.send("POST", claims, _with_parameters({})),
            "the policy on classes": lambda: self.admin.send("POST", classes, _class_with_parameters({})),
        }.items():
            self._await_refusal(look, what=what)
        good = _with_parameters({"apiVersion": "gpu.fracgpu.dev/v1alpha1", "kind": "FractionConfig"})
        self.wait(
            lambda: b"gpu.fracgpu.dev/parameters" in self.admin.send("POST", claims, good).raw,
            what="the policy on parameters",
        )

    def wait(self, until: Callable[[], object], *, what: str) -> None:
        """Wait until `until` returns something true; raises LabTimeout."""
        end = time.monotonic() + _DEADLINE_S
        while not until():
            if time.monotonic() > end:
                raise LabTimeout(what, f"did not happen within {_DEADLINE_S:g} s", remedy="see the API server's log")
            time.sleep(_LOOK_S)

    def _await_refusal(self, ask: Callable[[], Answer], *, what: str) -> None:
        self.wait(lambda: "ValidatingAdmissionPolicy" in ask().verdict[2], what=what)

    def _tls(self) -> ssl.SSLContext:
        return ssl.create_default_context(cafile=str(self.plane.authority.certificate))

    def _pod(self, namespace: str, account: str, node: str) -> Json:
        """Return a reference to a pod on `node` that runs as `account`."""
        make_node(self.admin, node)
        # A node's name may be as long as a pod's.
        name = f"{account}-{hashlib.sha256(node.encode()).hexdigest()[:8]}"
        container = {"name": "main", "image": "registry.example.com/none"}
        pod = {
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {"name": name},
            "spec": {"serviceAccountName": account, "nodeName": node, "containers": [container]},
        }
        path = f"/api/v1/namespaces/{namespace}/pods"
        answer = self.admin.send("POST", path, pod)
        assert answer.code in (201, 409), answer.raw
        uid = self.admin.send("GET", f"{path}/{name}").body["metadata"]["uid"]
        return {"apiVersion": "v1", "kind": "Pod", "name": name, "uid": uid}


@contextlib.contextmanager
def lone_plane(
    artifacts: Artifacts, run: Layout, name: str, *, number: int, gates: Mapping[str, bool] | None = None
) -> Iterator[LonePlane]:
    """Start a control plane with `gates` and install on it; `number` tells its ports from those of others.

    Its logs end up beside those of the run's cluster. Raises ClusterUnavailable.
    """
    layout = Layout(run.base / "planes" / name)
    options = ControlPlaneOptions(gates=dict(gates or {}), ports=Ports.shifted(10 * number))
    plane = ControlPlane(artifacts.kubernetes, layout, options)
    directory = layout.base / "test"
    directory.mkdir(parents=True)
    kubectl = Kubectl(artifacts.kubectl, plane.admin_kubeconfig, layout.base / "kubectl-cache")
    try:
        with plane:
            running = LonePlane(plane, kubectl, directory)
            running.install()
            yield running
    finally:
        shutil.copytree(layout.logs, run.logs / name, dirs_exist_ok=True)
        shutil.rmtree(layout.base)


def _configuration(parameters: Json) -> list[Json]:
    return [{"opaque": {"driver": "gpu.fracgpu.dev", "parameters": parameters}}]


def _with_parameters(parameters: Json) -> Json:
    request = {"name": "gpu", "exactly": {"deviceClassName": "gpu.fracgpu.dev"}}
    spec = {"devices": {"requests": [request], "config": _configuration(parameters)}}
    return {"metadata": {"name": "probe"}, "spec": spec}


def _class_with_parameters(parameters: Json) -> Json:
    return {"metadata": {"name": "probe"}, "spec": {"config": _configuration(parameters)}}

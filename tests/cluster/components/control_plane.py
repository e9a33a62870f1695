"""etcd, kube-apiserver, kube-controller-manager and kube-scheduler of one cluster, as an installer would set them.

Nothing is left out to make tests easier: Node and RBAC authorization, NodeRestriction, admission policies, bound
tokens, every controller. Only what would need a network of machines is missing: endpoint leases and kube-proxy.
"""

from __future__ import annotations

import contextlib
import ssl
import urllib.error
import urllib.request
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, Self

from fracgpu.sim.node.api import KubeApi
from tests.cluster.components.certificates import Authority, KeyPair, make_signing_key
from tests.cluster.components.kubeconfig import write_kubeconfig
from tests.cluster.components.process import Component
from tests.cluster.machine.layout import Layout
from tests.cluster.machine.network import NODE_ADDRESS, SERVICE_ADDRESS, SERVICE_RANGE

_PROBE_S: Final = 2.0
_ISSUER: Final = "https://kubernetes.default.svc"


@dataclass(frozen=True, slots=True, kw_only=True)
class Ports:
    """Where one control plane listens; a second one on the same machine needs others."""

    api: int = 443
    etcd: int = 2379
    controllers: int = 10257
    scheduler: int = 10259

    @classmethod
    def shifted(cls, by: int) -> Self:
        """Return ports for a further control plane."""
        return cls(api=6443 + by, etcd=12379 + by, controllers=14257 + by, scheduler=15259 + by)


@dataclass(frozen=True, slots=True, kw_only=True)
class ControlPlaneOptions:
    """What can differ between clusters: feature gates by name, served API versions, ports.

    `gates` goes to every component, as an administrator would set it.
    """

    gates: Mapping[str, bool] = field(default_factory=dict)
    runtime_config: Sequence[str] = ()
    ports: Ports = field(default_factory=Ports)


class ControlPlane:
    """One running control plane; a context manager. `binary` is the multi-call program.

    Raises:
        ClusterUnavailable: a component does not start.

    """

    def __init__(self, binary: Path, layout: Layout, options: ControlPlaneOptions | None = None) -> None:
        """Make keys, certificates and kubeconfigs, and describe the components."""
        self.options = options or ControlPlaneOptions()
        self._binary, self._layout = binary, layout
        self.server = f"https://{NODE_ADDRESS}:{self.options.ports.api}"
        self.authority = Authority(layout.credentials)
        self._signing_key = make_signing_key(layout.credentials)
        self.admin_kubeconfig = self.kubeconfig("admin", user="admin", groups=["system:masters"])
        self.tls = self._client_context(self._admin)
        self.api = KubeApi(self.server, tls=self.tls)
        self.etcd = self._etcd()
        self.api_server = self._api_server()
        self.controllers = self._controllers()
        self.scheduler = self._scheduler()
        self._stack = contextlib.ExitStack()

    def __enter__(self) -> Self:
        """Start everything, in the order in which one needs the other."""
        with contextlib.ExitStack() as stack:
            for component in (self.etcd, self.api_server):
                stack.callback(component.stop)
                component.start()
            for component in (self.controllers, self.scheduler):
                stack.callback(component.stop)
                component.launch()
            self.controllers.await_ready()
            self.scheduler.await_ready()
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        """Stop everything, in the other order."""
        self._stack.close()

    def kubeconfig(self, file: str, *, user: str, groups: Sequence[str] = ()) -> Path:
        """Issue a client certificate and write a kubeconfig for it."""
        pair = self.authority.client(file, user=user, groups=groups)
        if file == "admin":
            self._admin = pair
        return write_kubeconfig(
            self._layout.credentials / f"{file}.kubeconfig",
            server=self.server,
            authority=self.authority.certificate,
            client=pair,
        )

    def _client_context(self, pair: KeyPair) -> ssl.SSLContext:
        context = ssl.create_default_context(cafile=str(self.authority.certificate))
        context.load_cert_chain(pair.certificate, pair.key)
        return context

    def _component(self, name: str, arguments: Sequence[str], url: str, context: ssl.SSLContext | None) -> Component:
        return Component(
            name,
            [self._binary, name, *arguments],
            log=self._layout.logs / f"{name}.log",
            ready=lambda: answers(url, context),
        )

    def _etcd(self) -> Component:
        ports = self.options.ports
        url = f"http://127.0.0.1:{ports.etcd}"
        arguments = [
            f"--data-dir={self._layout.etcd}",
            f"--listen={url}",
        ]
        return self._component("etcd", arguments, f"{url}/health", None)

    def _api_server(self) -> Component:
        ports = self.options.ports
        serving = self.authority.server(
            "kube-apiserver",
            names=["kubernetes.default.svc", "kubernetes", "localhost", NODE_ADDRESS, SERVICE_ADDRESS, "127.0.0.1"],
        )
        to_kubelet = self.authority.client("apiserver-kubelet", user="apiserver", groups=["system:masters"])
        arguments = [
            f"--etcd-servers=http://127.0.0.1:{ports.etcd}",
            f"--secure-port={ports.api}",
            f"--advertise-address={NODE_ADDRESS}",
            f"--tls-cert-file={serving.certificate}",
            f"--tls-private-key-file={serving.key}",
            f"--client-ca-file={self.authority.certificate}",
            f"--kubelet-client-certificate={to_kubelet.certificate}",
            f"--kubelet-client-key={to_kubelet.key}",
            "--kubelet-preferred-address-types=InternalIP",
            f"--service-account-issuer={_ISSUER}",
            f"--service-account-key-file={self._signing_key}",
            f"--service-account-signing-key-file={self._signing_key}",
            f"--service-cluster-ip-range={SERVICE_RANGE}",
            "--authorization-mode=Node,RBAC",
            "--enable-admission-plugins=NodeRestriction",
            "--endpoint-reconciler-type=none",
            "--allow-privileged=true",
            *self._gates(),
        ]
        if self.options.runtime_config:
            arguments.append(f"--runtime-config={','.join(self.options.runtime_config)}")
        return self._component("kube-apiserver", arguments, f"{self.server}/readyz", self.tls)

    def _controllers(self) -> Component:
        user = "system:kube-controller-manager"
        arguments = [
            *self._client("controller-manager", user, self.options.ports.controllers),
            f"--service-account-private-key-file={self._signing_key}",
            f"--root-ca-file={self.authority.certificate}",
            "--use-service-account-credentials=true",
            "--leader-elect=false",
            *self._gates(),
        ]
        url = f"https://127.0.0.1:{self.options.ports.controllers}/healthz"
        return self._component("kube-controller-manager", arguments, url, _unverified())

    def _scheduler(self) -> Component:
        arguments = [
            *self._client("scheduler", "system:kube-scheduler", self.options.ports.scheduler),
            "--leader-elect=false",
            *self._gates(),
        ]
        url = f"https://127.0.0.1:{self.options.ports.scheduler}/healthz"
        return self._component("kube-scheduler", arguments, url, _unverified())

    def _client(self, file: str, user: str, port: int) -> list[str]:
        config = self.kubeconfig(file, user=user)
        return [
            f"--kubeconfig={config}",
            f"--authentication-kubeconfig={config}",
            f"--authorization-kubeconfig={config}",
            "--bind-address=127.0.0.1",
            f"--secure-port={port}",
        ]

    def _gates(self) -> list[str]:
        gates = ",".join(f"{name}={'true' if on else 'false'}" for name, on in sorted(self.options.gates.items()))
        return [f"--feature-gates={gates}"] if gates else []


def answers(url: str, context: ssl.SSLContext | None = None) -> bool:
    """Tell whether a GET of a health endpoint is answered with success."""
    try:
        with urllib.request.urlopen(url, timeout=_PROBE_S, context=context) as response:  # noqa: S310 (our own URLs)
            return bool(response.status == 200)
    except (OSError, urllib.error.URLError):
        return False


def _unverified() -> ssl.SSLContext:
    # These two serve health with a certificate that they sign themselves, on the loopback.
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context

"""The kubelet of the node, with the identity that the node authorizer expects."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from tests.cluster.components.control_plane import ControlPlane, answers
from tests.cluster.components.process import Component
from tests.cluster.machine import cgroups
from tests.cluster.machine.layout import CONTAINERD_SOCKET, KUBELET_ROOT, Layout
from tests.cluster.machine.network import CLUSTER_DNS, NODE_ADDRESS

_HEALTH_PORT: Final = 10248


def kubelet(binary: Path, layout: Layout, plane: ControlPlane, *, node: str, cgroup: str) -> Component:
    """Describe the kubelet of `node`, whose pods live below `cgroup`."""
    kubeconfig = plane.kubeconfig("kubelet", user=f"system:node:{node}", groups=["system:nodes"])
    serving = plane.authority.server("kubelet-serving", names=[node, NODE_ADDRESS])
    config = layout.configuration / "kubelet.json"
    document = _configuration(plane, cgroup=cgroup, gates=plane.options.gates)
    document |= {"tlsCertFile": str(serving.certificate), "tlsPrivateKeyFile": str(serving.key)}
    config.write_text(json.dumps(document, indent=2))
    return Component(
        "kubelet",
        [
            binary,
            "kubelet",
            f"--config={config}",
            f"--kubeconfig={kubeconfig}",
            f"--root-dir={KUBELET_ROOT}",
            f"--hostname-override={node}",
            f"--node-ip={NODE_ADDRESS}",
        ],
        log=layout.logs / "kubelet.log",
        ready=lambda: answers(f"http://127.0.0.1:{_HEALTH_PORT}/healthz"),
    )


def _configuration(plane: ControlPlane, *, cgroup: str, gates: Mapping[str, bool]) -> dict[str, Any]:
    return {
        "apiVersion": "kubelet.config.k8s.io/v1beta1",
        "kind": "KubeletConfiguration",
        "authentication": {
            "anonymous": {"enabled": False},
            "webhook": {"enabled": True},
            "x509": {"clientCAFile": str(plane.authority.certificate)},
        },
        "authorization": {"mode": "Webhook"},
        "cgroupDriver": "cgroupfs",
        "cgroupRoot": f"/{cgroup}",
        "failCgroupV1": cgroups.is_unified(),
        "containerRuntimeEndpoint": f"unix://{CONTAINERD_SOCKET}",
        "failSwapOn": False,
        "featureGates": dict(gates),
        "healthzPort": _HEALTH_PORT,
        # Pods have no name service, and the machine's own disk says nothing about this node.
        "resolvConf": "",
        "clusterDNS": [CLUSTER_DNS],
        "evictionHard": {"memory.available": "0%", "nodefs.available": "0%", "imagefs.available": "0%"},
        "imageGCHighThresholdPercent": 100,
        "imageGCLowThresholdPercent": 99,
        "nodeStatusUpdateFrequency": "5s",
        "shutdownGracePeriod": "0s",
    }

"""The network of the node: a namespace with nothing but a loopback, which has the addresses of the cluster.

The kubelet refuses a node address in 127/8, and in-cluster clients use the service address, which kube-proxy would
forward elsewhere. Both are given to `lo`, where the API server listens on all addresses; no packet leaves the machine.
"""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Final

NODE_ADDRESS: Final = "192.168.49.2"
SERVICE_RANGE: Final = "10.96.0.0/24"
SERVICE_ADDRESS: Final = "10.96.0.1"
# Nobody answers there; without an address the kubelet warns about every pod.
CLUSTER_DNS: Final = "10.96.0.10"
POD_RANGE: Final = "10.244.0.0/24"


def make_network() -> None:
    """Bring the loopback up with all addresses; raises CalledProcessError."""
    for command in (
        ("link", "set", "lo", "up"),
        ("address", "add", f"{NODE_ADDRESS}/32", "dev", "lo"),
        ("address", "add", f"{SERVICE_ADDRESS}/32", "dev", "lo"),
    ):
        subprocess.run(["ip", *command], check=True)
    Path("/proc/sys/net/ipv4/ip_forward").write_text("1")

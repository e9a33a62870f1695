"""The shipped controller as a process of its own, and whether it is at work."""

from __future__ import annotations

from typing import Final

from fracgpu.sim.lab.credentials import CONTROLLER_ACCOUNT, NAMESPACE
from fracgpu.sim.lab.driver_process import DriverProcess
from fracgpu.sim.lab.layout import Layout
from fracgpu.sim.lab.options import LabOptions
from fracgpu.sim.node.api import KubeApi
from fracgpu.sim.transport import ApiRefusedError

LEASES: Final = f"/apis/coordination.k8s.io/v1/namespaces/{NAMESPACE}/leases"
LEASE: Final = "fracgpu-controller"
_IDENTITY: Final = "lab"


def controller_of(layout: Layout, options: LabOptions) -> DriverProcess:
    """Return the controller of a lab, not started yet."""
    arguments = [
        f"--allocator={options.allocator}",
        f"--kubeconfig={layout.controller_kubeconfig}",
        f"--namespace={NAMESPACE}",
        f"--lease-name={LEASE}",
        f"--identity={_IDENTITY}",
        f"--log-level={options.log_level}",
    ]
    return DriverProcess(CONTROLLER_ACCOUNT, "controller", arguments, env={}, log=layout.controller_log)


def leader(api: KubeApi) -> str:
    """Return which replica of the controller leads, empty when none does. Raises ApiRefusedError but for absence."""
    try:
        lease = api.get(f"{LEASES}/{LEASE}")
    except ApiRefusedError as error:
        if error.code != 404:
            raise
        return ""
    return str((lease.get("spec") or {}).get("holderIdentity") or "")

"""The identity of the plugin in the lab: the shipped account, bound to the node, with the shipped roles and policy.

So the lab shows not only that the plugin works, but that it works with the rights that an installation gives it.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

from fracgpu.sim import manifests
from fracgpu.sim.api.access import Access
from fracgpu.sim.api.identity import service_account

NAMESPACE: Final = "fracgpu-system"
SERVICE_ACCOUNT: Final = "fracgpu-kubeletplugin"
_SHIPPED: Final = (
    "kubelet-plugin-rbac.yaml",
    "kubelet-plugin-policy.yaml",
    "claims-policy.yaml",
    "parameters-policy.yaml",
)


def shipped_access() -> Access:
    """Return access control by the manifests of deploy/."""
    return Access(obj for name in _SHIPPED for obj in manifests.load(manifests.shipped(name)))


class PluginToken:
    """A token file like the one that the kubelet projects into the plugin's pod and renews there."""

    def __init__(self, access: Access, path: Path, *, node: str) -> None:
        """Issue the first token and write it."""
        self._access, self._path = access, path
        self._user = service_account(NAMESPACE, SERVICE_ACCOUNT, node=node)
        self._token = ""
        self.renew()

    def renew(self) -> None:
        """Replace the token in the file, and let the one before expire at once: the least that a cluster grants."""
        former, self._token = self._token, self._access.tokens.issue(self._user)
        # The kubelet swaps a link to a directory; to a reader both are a file that has new content at once.
        fresh = self._path.with_suffix(".new")
        fresh.touch(mode=0o600)
        fresh.write_text(self._token)
        fresh.replace(self._path)
        self._access.tokens.revoke(former)

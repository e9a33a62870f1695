"""The identities of the driver's parts in the lab: the shipped accounts, with the shipped roles and policies.

So the lab shows not only that the driver works, but that it works with the rights that an installation gives it.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

from fracgpu.sim import manifests
from fracgpu.sim.api.access import Access
from fracgpu.sim.api.identity import service_account

NAMESPACE: Final = "fracgpu-system"
SERVICE_ACCOUNT: Final = "fracgpu-kubeletplugin"
CONTROLLER_ACCOUNT: Final = "fracgpu-controller"
_SHIPPED: Final = (
    "kubelet-plugin-rbac.yaml",
    "kubelet-plugin-policy.yaml",
    "claims-policy.yaml",
    "parameters-policy.yaml",
)
_OF_THE_CONTROLLER: Final = ("controller-rbac.yaml", "quota-policy.yaml")


def shipped_access(*more: str) -> Access:
    """Return access control by the manifests of deploy/ that concern the plugin, and by `more` of them."""
    return Access(obj for name in (*_SHIPPED, *more) for obj in manifests.load(manifests.shipped(name)))


def lab_access() -> Access:
    """Return access control by all manifests of deploy/."""
    return shipped_access(*_OF_THE_CONTROLLER)


class AccountToken:
    """A token file like the one that the kubelet projects into a pod of the driver and renews there.

    `node` is the node of a pod whose rights are bound to it.
    """

    def __init__(self, access: Access, path: Path, *, account: str, node: str = "") -> None:
        """Issue the first token and write it."""
        self._access, self._path = access, path
        self._user = service_account(NAMESPACE, account, node=node)
        self._token = ""
        self.renew()

    @property
    def user(self) -> str:
        """Whose token it is, as the API server says it."""
        return self._user.name

    def renew(self) -> None:
        """Replace the token in the file, and let the one before expire at once: the least that a cluster grants."""
        former, self._token = self._token, self._access.tokens.issue(self._user)
        # The kubelet swaps a link to a directory; to a reader both are a file that has new content at once.
        fresh = self._path.with_suffix(".new")
        fresh.touch(mode=0o600)
        fresh.write_text(self._token)
        fresh.replace(self._path)
        self._access.tokens.revoke(former)


class PluginToken(AccountToken):
    """The token of the plugin on a node."""

    def __init__(self, access: Access, path: Path, *, node: str) -> None:
        super().__init__(access, path, account=SERVICE_ACCOUNT, node=node)

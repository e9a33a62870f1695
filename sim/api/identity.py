"""Who sends a request: bearer tokens and the users that they stand for.

A projected service account token of a pod carries the name of the pod's node; that is what lets a cluster bind a node
plugin to its own node, and therefore what the lab gives to its plugin.
"""

from __future__ import annotations

import secrets
import threading
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

from fracgpu.sim.api.errors import ApiError

NODE_NAME_EXTRA: Final = "authentication.kubernetes.io/node-name"
_ACCOUNT_PREFIX: Final = "system:serviceaccount:"
_BEARER: Final = "bearer"


@dataclass(frozen=True, slots=True)
class User:
    """An authenticated identity, as user.Info of k8s.io/apiserver."""

    name: str
    groups: frozenset[str] = frozenset()
    extra: Mapping[str, tuple[str, ...]] = field(default_factory=dict, hash=False)

    @property
    def is_service_account(self) -> bool:
        """Tell whether the name is that of a service account."""
        parts = self.name.removeprefix(_ACCOUNT_PREFIX).split(":")
        return self.name.startswith(_ACCOUNT_PREFIX) and len(parts) == 2 and all(parts)

    @property
    def node_name(self) -> str:
        """Return the one node that the token is bound to, empty when there is none or more than one."""
        names = self.extra.get(NODE_NAME_EXTRA, ())
        return names[0] if len(names) == 1 else ""


def service_account(namespace: str, name: str, *, node: str = "") -> User:
    """Return the user of a service account's token; of a pod's projected token if `node` is given."""
    groups = frozenset({"system:serviceaccounts", f"system:serviceaccounts:{namespace}", "system:authenticated"})
    return User(f"{_ACCOUNT_PREFIX}{namespace}:{name}", groups, {NODE_NAME_EXTRA: (node,)} if node else {})


class Tokens:
    """The tokens that are valid now. Safe to use from several threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._users: dict[str, User] = {}

    def issue(self, user: User) -> str:
        """Return a new token for the user."""
        token = secrets.token_urlsafe(24)
        with self._lock:
            self._users[token] = user
        return token

    def revoke(self, token: str) -> None:
        """Make a token invalid, as its expiry does."""
        with self._lock:
            self._users.pop(token, None)

    def user_of(self, authorization: str) -> User:
        """Return whom an Authorization header names. Raises ApiError 401."""
        scheme, _, token = authorization.strip().partition(" ")
        with self._lock:
            user = self._users.get(token.strip()) if scheme.lower() == _BEARER else None
        if user is None:
            raise ApiError(401, "Unauthorized", "Unauthorized")
        return user

"""Role-based access control over the roles and bindings that are shipped.

Only what those need: cluster roles that are bound cluster-wide, and roles that are bound in their own namespace.
Source: pkg/apis/rbac/v1/evaluation_helpers.go of Kubernetes.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from fracgpu.sim.api.identity import User
from fracgpu.sim.api.objects import JsonObject, name_of, namespace_of

_GROUP = "rbac.authorization.k8s.io"


@dataclass(frozen=True, slots=True, kw_only=True)
class Attributes:
    """What is asked for. `resource` includes the subresource (`resourceclaims/status`); `name` may be empty."""

    verb: str
    group: str
    resource: str
    namespace: str = ""
    name: str = ""

    def refusal(self, user: User) -> str:
        """Return the text with which the API server refuses the user."""
        where = f'in the namespace "{self.namespace}"' if self.namespace else "at the cluster scope"
        return f'User "{user.name}" cannot {self.verb} resource "{self.resource}" in API group "{self.group}" {where}'


@dataclass(frozen=True, slots=True, order=True)
class Permission:
    """One cell of a role: what a rule allows with one of its groups, resources and verbs."""

    role: str
    group: str
    resource: str
    verb: str


class RbacRules:
    """The rules of bound roles, of the cluster and of namespaces."""

    def __init__(self, objects: Iterable[JsonObject]) -> None:
        """Take the RBAC objects among `objects`; others are passed over."""
        found = [obj for obj in objects if str(obj.get("apiVersion", "")).startswith(f"{_GROUP}/")]
        # By namespace, empty for those of the cluster, and name.
        self._roles = {
            (namespace_of(obj), name_of(obj)): list(obj.get("rules") or [])
            for obj in found
            if obj["kind"] in ("ClusterRole", "Role")
        }
        self._bindings = [obj for obj in found if obj["kind"] in ("ClusterRoleBinding", "RoleBinding")]

    def grant(self, user: User, wanted: Attributes) -> Permission | None:
        """Return the permission by which the user may do what is wanted, None if there is none."""
        for role in self._roles_of(user, wanted.namespace):
            for rule in self._roles.get(role, []):
                if _allows(rule, wanted):
                    return Permission(role[1], wanted.group, wanted.resource, wanted.verb)
        return None

    def permissions(self) -> frozenset[Permission]:
        """Return everything that the roles grant, cell by cell."""
        return frozenset(
            Permission(role, group, resource, verb)
            for (_, role), rules in self._roles.items()
            for rule in rules
            for group in rule.get("apiGroups") or []
            for resource in rule.get("resources") or []
            for verb in rule.get("verbs") or []
        )

    def _roles_of(self, user: User, namespace: str) -> list[tuple[str, str]]:
        """Return the roles that a user has in a namespace, those of the cluster among them."""
        return [
            (namespace_of(binding), str(binding["roleRef"]["name"]))
            for binding in self._bindings
            if namespace_of(binding) in ("", namespace)
            and any(_is_subject(subject, user) for subject in binding.get("subjects") or [])
        ]


def _is_subject(subject: JsonObject, user: User) -> bool:
    kind, name = subject.get("kind"), subject.get("name")
    if kind == "ServiceAccount":
        return user.name == f"system:serviceaccount:{subject.get('namespace')}:{name}"
    return user.name == name if kind == "User" else kind == "Group" and name in user.groups


def _allows(rule: JsonObject, wanted: Attributes) -> bool:
    names = rule.get("resourceNames") or []
    return (
        _names(rule, "verbs", wanted.verb)
        and _names(rule, "apiGroups", wanted.group)
        and _names(rule, "resources", wanted.resource)
        and (not names or wanted.name in names)
    )


def _names(rule: JsonObject, key: str, wanted: str) -> bool:
    listed: list[Any] = rule.get(key) or []
    return "*" in listed or wanted in listed

"""Evaluation of roles, rule by rule."""

from __future__ import annotations

from typing import Any

import pytest

from fracgpu.sim.api.identity import User, service_account
from fracgpu.sim.api.rbac import Attributes, Permission, RbacRules

Json = dict[str, Any]
API = "rbac.authorization.k8s.io/v1"
ROLE: Json = {
    "apiVersion": API,
    "kind": "ClusterRole",
    "metadata": {"name": "r"},
    "rules": [
        {"apiGroups": ["example.com"], "resources": ["things", "things/status"], "verbs": ["get", "patch"]},
        {"apiGroups": [""], "resources": ["secrets"], "resourceNames": ["one"], "verbs": ["get", "list"]},
        {"apiGroups": ["all.example.com"], "resources": ["*"], "verbs": ["*"]},
    ],
}
ACCOUNT = {"kind": "ServiceAccount", "namespace": "ns", "name": "sa"}


NAMESPACED: Json = {
    "apiVersion": API,
    "kind": "Role",
    "metadata": {"name": "r", "namespace": "ns"},
    "rules": [{"apiGroups": [""], "resources": ["secrets"], "verbs": ["get"]}],
}


@pytest.mark.parametrize(
    ("namespace", "allowed"), [("ns", True), ("other", False), ("", False)], ids=["own", "other", "cluster"]
)
def test_a_role_counts_in_its_own_namespace_only(namespace: str, allowed: bool) -> None:
    binding = {
        "apiVersion": API,
        "kind": "RoleBinding",
        "metadata": {"name": "b", "namespace": "ns"},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": "r"},
        "subjects": [{"kind": "ServiceAccount", "namespace": "ns", "name": "sa"}],
    }
    wanted = Attributes(verb="get", group="", resource="secrets", namespace=namespace, name="one")
    # A cluster role of the same name, bound to nobody, gives nothing.
    granted = RbacRules([ROLE, NAMESPACED, binding]).grant(service_account("ns", "sa"), wanted)
    assert (granted is not None) is allowed


def rules(*subjects: Json, role: str = "r") -> RbacRules:
    reference = {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": role}
    binding = {"apiVersion": API, "kind": "ClusterRoleBinding", "metadata": {"name": "b"}, "roleRef": reference}
    return RbacRules([ROLE, binding | {"subjects": list(subjects)}, {"apiVersion": "v1", "kind": "ConfigMap"}])


@pytest.mark.parametrize(
    ("verb", "group", "resource", "name", "allowed"),
    [
        ("get", "example.com", "things", "x", True),
        ("patch", "example.com", "things/status", "x", True),
        ("get", "", "things", "x", False),
        ("get", "other.example.com", "things", "x", False),
        ("update", "example.com", "things", "x", False),
        ("get", "example.com", "things/other", "x", False),
        ("get", "example.com", "thing", "x", False),
        ("get", "", "secrets", "one", True),
        ("get", "", "secrets", "two", False),
        ("list", "", "secrets", "", False),
        ("create", "all.example.com", "anything/at-all", "", True),
    ],
)
def test_a_rule_must_fit_in_every_part(verb: str, group: str, resource: str, name: str, allowed: bool) -> None:
    wanted = Attributes(verb=verb, group=group, resource=resource, name=name)
    granted = rules(ACCOUNT).grant(service_account("ns", "sa"), wanted)
    assert granted == (Permission("r", group, resource, verb) if allowed else None)


@pytest.mark.parametrize(
    ("subject", "user", "bound"),
    [
        (ACCOUNT, service_account("ns", "sa"), True),
        (ACCOUNT, service_account("other", "sa"), False),
        (ACCOUNT, User("sa"), False),
        ({"kind": "User", "name": "jane"}, User("jane"), True),
        ({"kind": "User", "name": "jane"}, User("john", frozenset({"jane"})), False),
        ({"kind": "Group", "name": "people"}, User("jane", frozenset({"people"})), True),
        ({"kind": "Group", "name": "people"}, User("people"), False),
        ({"kind": "Group", "name": "system:serviceaccounts:ns"}, service_account("ns", "sa"), True),
        ({"kind": "Robot", "name": "jane"}, User("jane", frozenset({"jane"})), False),
    ],
)
def test_a_binding_is_for_its_subjects(subject: Json, user: User, bound: bool) -> None:
    wanted = Attributes(verb="get", group="example.com", resource="things", name="x")
    assert (rules(subject).grant(user, wanted) is not None) is bound
    assert rules(subject, role="another").grant(user, wanted) is None


def test_permissions_are_all_cells() -> None:
    found = rules(ACCOUNT).permissions()
    assert len(found) == 2 * 2 + 2 + 1
    assert Permission("r", "example.com", "things/status", "get") in found

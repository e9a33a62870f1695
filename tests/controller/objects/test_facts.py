"""Questions about pods, claims and nodes."""

from __future__ import annotations

from typing import Any

import pytest

from fracgpu.controller.objects import facts

OWNER = {"metadata": {"uid": "u1"}}


def test_names_and_revision() -> None:
    obj: dict[str, Any] = {
        "metadata": {"name": "a", "namespace": "b", "uid": "c", "resourceVersion": "17", "labels": {"x": "y", "z": 1}}
    }
    assert (facts.name_of(obj), facts.namespace_of(obj), facts.uid_of(obj)) == ("a", "b", "c")
    assert (facts.full_name(obj), facts.revision_of(obj), facts.labels_of(obj)) == ("b/a", 17, {"x": "y"})
    assert (facts.full_name({"metadata": {"name": "n1"}}), facts.revision_of({}), facts.uid_of({})) == ("n1", 0, "")
    assert facts.revision_of({"metadata": {"resourceVersion": "\u00b2"}}) == 0


@pytest.mark.parametrize(
    ("pod", "terminal", "done", "waits"),
    [
        ({}, False, False, True),
        ({"spec": {"nodeName": "n"}}, False, False, False),
        ({"spec": {"schedulingGates": [{"name": "g"}]}}, False, False, False),
        ({"status": {"phase": "Succeeded"}}, True, True, False),
        ({"spec": {"nodeName": "n"}, "status": {"phase": "Failed"}}, True, True, False),
        ({"metadata": {"deletionTimestamp": "t"}}, False, True, False),
        ({"metadata": {"deletionTimestamp": "t"}, "spec": {"nodeName": "n"}}, False, False, False),
    ],
    ids=["new", "bound", "gated", "ended", "failed", "deleted unbound", "deleted bound"],
)
def test_life_of_a_pod(pod: dict[str, Any], terminal: bool, done: bool, waits: bool) -> None:
    assert (facts.is_terminal(pod), facts.is_done(pod), facts.waits_for_node(pod)) == (terminal, done, waits)


def test_claims_of_a_pod_by_its_own_names() -> None:
    pod = {
        "spec": {
            "resourceClaims": [
                {"name": "own", "resourceClaimName": "shared"},
                {"name": "made", "resourceClaimTemplateName": "t"},
                {"name": "later", "resourceClaimTemplateName": "t"},
                {"name": "none", "resourceClaimTemplateName": "t"},
            ]
        },
        "status": {"resourceClaimStatuses": [{"name": "made", "resourceClaimName": "p-made-x"}, {"name": "none"}]},
    }
    assert facts.claim_names(pod) == {"own": "shared", "made": "p-made-x", "later": None, "none": None}
    assert [facts.is_generated(pod, name) for name in ("own", "made", "absent")] == [False, True, False]


def test_only_the_controlling_owner_owns() -> None:
    def owned(**reference: Any) -> bool:
        return facts.is_owned_by({"metadata": {"ownerReferences": [{"uid": "u1", **reference}]}}, OWNER)

    assert owned(controller=True)
    assert not owned()
    assert not owned(controller=True, uid="u2")


def test_allocation_reservation_finalizer() -> None:
    claim = {
        "metadata": {"finalizers": ["resource.kubernetes.io/delete-protection"]},
        "status": {"allocation": {}, "reservedFor": [{"uid": "a"}, {"uid": "b"}]},
    }
    assert facts.is_allocated(claim)
    assert facts.has_finalizer(claim)
    assert facts.reserved_uids(claim) == ["a", "b"]
    assert not facts.is_allocated({"status": {"allocation": None}})
    assert not facts.has_finalizer({"metadata": {"finalizers": ["other"]}})


def test_ready_is_a_condition() -> None:
    assert facts.is_ready({"status": {"conditions": [{"type": "X"}, {"type": "Ready", "status": "True"}]}})
    assert not facts.is_ready({"status": {"conditions": [{"type": "Ready", "status": "Unknown"}]}})
    assert not facts.is_ready({})

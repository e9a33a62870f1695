"""``fracgpu explain``: where a pod's or a claim's shares are, or why they are nowhere, in numbers. Only reads."""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from fracgpu.cli.asking import Look, Question, describe_request
from fracgpu.cli.cluster_options import EXIT_GOOD, EXIT_NO_ANSWER, EXIT_NOT, OUTPUT_JSON
from fracgpu.cli.shares import Share, shares_of
from fracgpu.cli.snapshot import ClusterUnread, Snapshot, read_snapshot
from fracgpu.cli.tables import NOTHING, as_json, complain, print_lines, table
from fracgpu.controller.allocator.claim_book import IMMEDIATE, IMMEDIATE_ANNOTATION, wanted_ahead
from fracgpu.controller.allocator.world import PODS, World
from fracgpu.controller.fit.views import Misfit, Placement
from fracgpu.controller.objects.facts import (
    is_allocated,
    is_deleting,
    is_generated,
    is_terminal,
    items,
    name_of,
    namespace_of,
    node_name_of,
    text,
)
from fracgpu.controller.ports import Json
from fracgpu.driver.errors import FracgpuError
from fracgpu.driver.names import DRIVER_NAME
from fracgpu.driver.quantity import format_mib

_MOST_ROWS: Final = 40


class NotThere(FracgpuError):
    """The object to explain does not exist."""


@dataclass(slots=True)
class Explanation:
    """What is said. `good` tells that nothing is missing."""

    title: str
    good: bool
    claims: list[tuple[Json, list[Share], list[str]]] = field(default_factory=list)
    why: list[str] = field(default_factory=list)
    reasons: list[Mapping[str, Any]] = field(default_factory=list)
    looks: list[Look] = field(default_factory=list)


def run_explain(parsed: argparse.Namespace) -> int:
    """Explain the object that the command line names; return the exit status."""
    try:
        snapshot = read_snapshot(parsed)
        found = explain_object(snapshot, *parsed.object)
    except (ClusterUnread, NotThere) as error:
        complain("explain", error)
        return EXIT_NO_ANSWER
    lines = as_json(_document(found)) if parsed.output == OUTPUT_JSON else _lines(found, snapshot.world())
    if not print_lines("explain", lines):
        return EXIT_NO_ANSWER
    return EXIT_GOOD if found.good else EXIT_NOT


def explain_object(snapshot: Snapshot, kind: str, name: str) -> Explanation:
    """Return the explanation of a `pod` or `claim` of the snapshot's namespace. Raises NotThere."""
    world = snapshot.world()
    key = (snapshot.namespace, name)
    remedy = "check the name, and give its namespace with -n"
    if kind == "pod":
        pods = [pod for pod in snapshot.of(PODS) if (namespace_of(pod), name_of(pod)) == key]
        if not pods:
            raise NotThere(f"pod {snapshot.namespace}/{name}", "is not there", remedy=remedy)
        return _explain_pod(world, pods[0], snapshot)
    claim = world.claims.get(key)
    if claim is None:
        raise NotThere(f"claim {snapshot.namespace}/{name}", "is not there", remedy=remedy)
    return _explain_claim(world, claim, snapshot)


def _explain_pod(world: World, pod: Json, snapshot: Snapshot) -> Explanation:
    subject = f"Pod {namespace_of(pod)}/{name_of(pod)}"
    claims, missing = world.claims_of(pod)
    ours = [claim for claim in claims if world.is_ours(claim)]
    if not ours and not missing:
        return Explanation(f"{subject} has no claim for {DRIVER_NAME}", good=True)
    if is_terminal(pod):
        return Explanation(f"{subject} has ended: it needs no GPU any more", good=True)
    waiting = [claim for claim in ours if not is_allocated(claim)]
    found = Explanation(_title(subject, pod, len(waiting) + len(missing)), good=not waiting and not missing)
    found.claims = [(claim, shares_of(claim), _asked(world, claim, snapshot)) for claim in ours]
    for own_name in missing:
        found.why.append(_missing_claim(pod, own_name))
    if any(not wanted_ahead(claim) for claim in waiting):
        found.why += _held_up(world, pod)
    if any(is_deleting(claim) for claim in claims):
        found.why.append("a claim of the pod is being deleted")
    if found.good and not node_name_of(pod):
        found.why += [f"kube-scheduler says: {message}" for message in _scheduler_says(pod)]
    if waiting and not found.why:
        _ask(found, Question(world, pod, claims, keeps_capacity=snapshot.keeps_capacity))
    return found


def _held_up(world: World, pod: Json) -> list[str]:
    """Return why nobody allocates for a pod at all, whatever room there is."""
    held = []
    gates = ", ".join(text(gate, "name") for gate in items(pod, "spec", "schedulingGates"))
    if gates:
        held.append(f"the pod has scheduling gates ({gates}): nothing is allocated before they are taken away")
    node = node_name_of(pod)
    if node and world.owner == "scheduler":
        held.append(
            f"the pod is bound to node {node} already (nodeName), past kube-scheduler: nobody allocates for it; "
            "create it with a nodeSelector instead"
        )
    return held


def _scheduler_says(pod: Json) -> list[str]:
    conditions = items(pod, "status", "conditions")
    said = [
        text(one, "message") for one in conditions if one.get("type") == "PodScheduled" and one.get("status") == "False"
    ]
    return [message for message in said if message]


def _title(subject: str, pod: Json, waiting: int) -> str:
    if waiting:
        return f"{subject} waits for {waiting} claim{'s' * (waiting > 1)}"
    node = node_name_of(pod)
    return f"{subject} has its GPUs" + (f" on node {node}" if node else "; kube-scheduler has not bound it yet")


def _missing_claim(pod: Json, own_name: str) -> str:
    if is_generated(pod, own_name):
        entry = next(item for item in items(pod, "spec", "resourceClaims") if item.get("name") == own_name)
        template = text(entry, "resourceClaimTemplateName")
        return f"claim {own_name} has not been made from template {template}: look whether the template exists"
    return f"claim {own_name}: the ResourceClaim that it names does not exist; create it"


def _explain_claim(world: World, claim: Json, snapshot: Snapshot) -> Explanation:
    subject = f"Claim {namespace_of(claim)}/{name_of(claim)}"
    if not world.is_ours(claim):
        return Explanation(f"{subject} is not for {DRIVER_NAME}", good=True)
    users = world.pods.users_of((namespace_of(claim), name_of(claim)))
    used_by = f"; used by pods: {', '.join(name_of(pod) for pod in users)}" if users else ""
    if is_allocated(claim):
        found = Explanation(f"{subject} is allocated{used_by or '; no pod uses it'}", good=True)
        found.claims = [(claim, shares_of(claim), _asked(world, claim, snapshot))]
        return found
    found = Explanation(f"{subject} is not allocated{used_by}", good=False)
    found.claims = [(claim, [], _asked(world, claim, snapshot))]
    if is_deleting(claim):
        found.why.append("the claim is being deleted")
        return found
    if not users and not wanted_ahead(claim):
        found.why.append(
            "no pod uses the claim: it is allocated when one does, or ahead with the annotation "
            f"{IMMEDIATE_ANNOTATION}: {IMMEDIATE}"
        )
    pod = next((one for one in users if not _held_up(world, one)), users[0]) if users else None
    claims = world.claims_of(pod)[0] if pod is not None else [claim]
    wanted = bool(users) or wanted_ahead(claim)
    if pod is not None and not wanted_ahead(claim):
        found.why += _held_up(world, pod)
        if found.why:
            return found
    _ask(found, Question(world, pod, claims, keeps_capacity=snapshot.keeps_capacity), wanted=wanted)
    return found


def _asked(world: World, claim: Json, snapshot: Snapshot) -> list[str]:
    """Return what the requests of a claim ask for, nothing if they cannot be read: the answer says why."""
    spec = {key: value for key, value in claim.items() if key != "status"}
    try:
        demand = Question(world, None, [spec], keeps_capacity=snapshot.keeps_capacity).demand()
    except FracgpuError:
        return []
    return [f"{request.name}: {describe_request(request)}" for several in demand.choices for request in several]


def _ask(found: Explanation, question: Question, *, wanted: bool = True) -> None:
    answer = question.answer()
    if isinstance(answer, Placement):
        who = "kube-scheduler" if question.world.owner == "scheduler" else "the controller"
        gpus = ", ".join(device.device for device in answer.devices)
        then = f": {who} has not allocated it yet" if wanted else ""
        found.why.append(f"there is room on node {answer.node} ({gpus}){then}")
    else:
        found.why += [reason.message for reason in answer.reasons]
        found.reasons += _reasons(answer)
    try:
        found.looks = question.looks()
    except FracgpuError:
        # The answer says what is wrong with the claim; there is nothing to hold against GPUs.
        found.looks = []


def _reasons(misfit: Misfit) -> list[Mapping[str, Any]]:
    return [
        {
            "code": reason.code.value,
            "affected": reason.affected,
            "total": reason.total,
            "unit": reason.unit,
            "detail": reason.detail,
            "message": reason.message,
        }
        for reason in misfit.reasons
    ]


def _lines(found: Explanation, world: World) -> list[str]:
    lines = [found.title]
    for claim, shares, asked in found.claims:
        lines += ["", f"Claim {namespace_of(claim)}/{name_of(claim)}"]
        lines += [f"  asks  {line}" for line in asked]
        lines += [f"  has   {_share(share, world)}" for share in shares]
    if found.why:
        lines += ["", "Why", *(f"  {line}" for line in found.why)]
    if found.looks:
        lines += ["", *_look_table(found.looks)]
    return lines


def _share(share: Share, world: World) -> str:
    gpu = world.ledger.gpu((share.pool, share.device))
    of_all = f" of {format_mib(gpu.memory_bytes)}" if gpu is not None and share.holding is not None else ""
    parts = [f"{share.request}: {share.memory}{of_all}"]
    if share.cores:
        parts.append(f"{share.cores} cores")
    parts.append(f"on node {share.node or '(several)'} GPU {share.device}")
    if share.share_id:
        parts.append(f"share {share.share_id[:8]}")
    if share.used:
        parts.append(f"used {share.used}")
    if share.enforced:
        parts.append(f"enforced: {share.enforced}")
    return ", ".join(parts)


def _look_table(looks: Sequence[Look]) -> list[str]:
    head = ("NODE", "GPU", "REQUEST", "MEMORY ASKED", "FREE", "CORES ASKED", "FREE", "SLOTS FREE", "VERDICT")
    shown = sorted(looks, key=lambda look: not look.fits)[:_MOST_ROWS]
    rows = [
        (
            look.gpu.node,
            look.gpu.device,
            look.request,
            NOTHING if look.memory_bytes is None else format_mib(look.memory_bytes),
            format_mib(look.free.memory_bytes),
            NOTHING if look.cores is None else str(look.cores),
            str(look.free.cores),
            str(look.free.slots),
            look.verdict,
        )
        for look in shown
    ]
    lines = table(head, rows, right=head[3:8])
    return lines if len(looks) == len(shown) else [*lines, f"and {len(looks) - len(shown)} more; -o json has all"]


def _document(found: Explanation) -> Mapping[str, Any]:
    return {
        "summary": found.title,
        "complete": found.good,
        "claims": [
            {
                "namespace": namespace_of(claim),
                "name": name_of(claim),
                "asks": asked,
                "shares": [share.as_json() for share in shares],
            }
            for claim, shares, asked in found.claims
        ],
        "why": found.why,
        "reasons": found.reasons,
        "gpus": [
            {
                "request": look.request,
                "node": look.gpu.node,
                "pool": look.gpu.pool,
                "device": look.gpu.device,
                "asked": {"memoryBytes": look.memory_bytes, "cores": look.cores},
                "free": {
                    "memoryBytes": look.free.memory_bytes,
                    "cores": look.free.cores,
                    "slots": look.free.slots,
                },
                "fits": look.fits,
                "verdict": look.verdict,
            }
            for look in found.looks
        ],
    }

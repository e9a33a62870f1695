"""From claims and classes to what the fit engine answers: everything that one pod needs at once."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from fracgpu.controller.fit.views import Constraint, Demand, Policy
from fracgpu.controller.objects.claim_requests import ClaimReader, ReadRequest
from fracgpu.controller.objects.classes import ClassLookup, is_ours
from fracgpu.controller.objects.errors import DemandRefused
from fracgpu.controller.objects.facts import Json, dig, full_name, uid_of
from fracgpu.driver.amounts import Allocator
from fracgpu.driver.codes import ReasonCode
from fracgpu.driver.names import ATTR_NUMA_NODE, ATTR_PCIE_ROOT, DRIVER_NAME, base_request

__all__ = ["ClassLookup", "build_demand", "is_ours"]

_UNKNOWN_NUMA_NODE = -1


def build_demand(
    claims: Sequence[Json],
    find_class: ClassLookup,
    *,
    keeps_capacity: bool,
    allocator: Allocator = "controller",
) -> Demand:
    """Return what some claims of ours need together, all on one node.

    Several claims may ask for different node policies, and the pod can have one: what a claim itself says wins over
    what a class says, and of equals the earlier claim and request wins.

    `allocator` says by whose rules amounts are counted; for `scheduler` the demand is for explaining only.

    Raises DemandRefused, AmountsError or SelectorNotSupported; all have a `code`.
    """
    read: list[list[ReadRequest]] = []
    constraints: list[Constraint] = []
    for claim in claims:
        reader = ClaimReader(claim, find_class, keeps_capacity=keeps_capacity, allocator=allocator)
        requests = reader.read()
        constraints += [*_constraints(claim), *_topology(claim, requests)]
        read += requests
    return Demand(
        choices=tuple(tuple(one.request for one in alternatives) for alternatives in read),
        constraints=tuple(dict.fromkeys(constraints)),
        node_policy=_node_policy([one for alternatives in read for one in alternatives]),
    )


def _node_policy(read: Sequence[ReadRequest]) -> Policy:
    said = [one.from_claim.node for one in read] + [one.from_class.node for one in read]
    return next((policy for policy in said if policy), "Binpack")


def _constraints(claim: Json) -> Iterable[Constraint]:
    """Return the constraints that a claim states."""
    subject = f"claim {full_name(claim)}"
    found = dig(claim, "spec", "devices", "constraints")
    for item in [] if found is None else found if isinstance(found, list) else [found]:
        # Of both only the first counts, for kube-scheduler too.
        kind = "matchAttribute" if dig(item, "matchAttribute") else "distinctAttribute"
        attribute, requests = dig(item, kind), dig(item, "requests") or []
        if not attribute or not isinstance(attribute, str) or "/" not in attribute:
            what = "has a constraint without matchAttribute or distinctAttribute"
            remedy = "name an attribute with its domain; the API server drops distinctAttribute where it is not enabled"
            raise DemandRefused(subject, what, remedy=remedy)
        if not isinstance(requests, list) or not all(isinstance(name, str) for name in requests):
            raise DemandRefused(subject, f"constraint on {attribute} has no list of requests", remedy="name requests")
        yield Constraint(
            claim=uid_of(claim),
            attribute=attribute.removeprefix(f"{DRIVER_NAME}/"),
            kind="match" if kind == "matchAttribute" else "distinct",
            requests=tuple(requests),
        )


def _topology(claim: Json, read: Sequence[Sequence[ReadRequest]]) -> Iterable[Constraint]:
    """Return the constraints that placement.topology stands for: all GPUs of the requests that ask for it are near.

    One GPU is near itself, even if nobody knows where it is.
    """
    for topology in ("Numa", "PcieRoot"):
        asking = [one.request for several in read for one in several if one.topology == topology]
        if len({base_request(request.name) for request in asking}) == 1:
            asking = [request for request in asking if request.every or request.count > 1]
        if not asking:
            continue
        names = tuple(request.name for request in asking)
        if topology == "PcieRoot":
            code = ReasonCode.PCIE_ROOT_NOT_FIT
            yield Constraint(claim=uid_of(claim), attribute=ATTR_PCIE_ROOT, requests=names, code=code)
        else:
            yield Constraint(
                claim=uid_of(claim),
                attribute=ATTR_NUMA_NODE,
                requests=names,
                unknown=(_UNKNOWN_NUMA_NODE,),
                code=ReasonCode.NUMA_NOT_FIT,
            )

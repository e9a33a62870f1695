"""What the world makes of news that comes late, in jumps, or about another object of the same name."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from fracgpu.controller.allocator.claim_book import ClaimNews
from fracgpu.controller.allocator.world import World
from fracgpu.controller.fit.views import PlacedDevice, Placement
from fracgpu.controller.ports import Change, ChangeKind
from fracgpu.driver.amounts import Amounts
from fracgpu.driver.names import CLASS_FRACTION
from tests.controller.allocator.simulation import cluster

Json = dict[str, Any]
GIB = 1 << 30
GPU = ("n1", "gpu-00000000")


@pytest.fixture
def world() -> World:
    world = World()
    for resource, obj in (
        ("deviceclasses", cluster.device_class()),
        ("nodes", cluster.node("n1")),
        ("resourceslices", cluster.slice_of("n1", [cluster.device(0, 8)])),
    ):
        tell(world, resource, obj)
    return world


def tell(world: World, resource: str, obj: Json, kind: ChangeKind = "MODIFIED") -> bool:
    """Tell a piece of news; return whether those who wait are looked at again for it."""
    before = world.supply_version
    world.apply(Change(resource, kind, obj))
    return world.supply_version != before


def claim(uid: str, version: int, *, memory: str = "") -> Json:
    """Return a claim called `c`, allocated if `memory` is stated."""
    body: Json = {
        "metadata": {"name": "c", "namespace": "default", "uid": uid, "resourceVersion": str(version)},
        "spec": {"devices": {"requests": [{"name": "gpu", "exactly": {"deviceClassName": CLASS_FRACTION}}]}},
    }
    if memory:
        consumed = {"memory": memory, "cores": "0", "slots": "1"}
        result = {"request": "gpu", "driver": "gpu.fracgpu.dev", "pool": "n1", "device": GPU[1]}
        term = {"matchFields": [{"key": "metadata.name", "operator": "In", "values": ["n1"]}]}
        body["status"] = {
            "allocation": {
                "devices": {"results": [{**result, "consumedCapacity": consumed}], "config": []},
                "nodeSelector": {"nodeSelectorTerms": [term]},
            }
        }
    return body


def pod(uid: str, version: int, *, cpu: str = "1", claims: bool = True, phase: str = "Pending") -> Json:
    body = cluster.pod("p", ["c"] if claims else [])
    body["metadata"] |= {"uid": uid, "resourceVersion": str(version)}
    container = {"name": "main", "resources": {"requests": {"cpu": cpu}}}
    body["spec"] |= {"containers": [container], "nodeName": "n1"}
    body["status"]["phase"] = phase
    return body


def free(world: World) -> int:
    found = world.ledger.free(GPU)
    assert found is not None
    return found.memory_bytes // GIB


def placement(uid: str, gib: int) -> Placement:
    amounts = Amounts(memory_bytes=gib * GIB, cores=0, slots=1)
    device = PlacedDevice(
        claim=uid, request="gpu", class_name=CLASS_FRACTION, pool="n1", device=GPU[1], amounts=amounts
    )
    return Placement(node="n1", devices=(device,))


def test_a_claim_made_anew_under_its_name_frees_what_the_old_one_held(world: World) -> None:
    heard: list[ClaimNews] = []
    world.on_claim(heard.append)
    tell(world, "resourceclaims", claim("old", 10, memory="6Gi"))
    assert free(world) == 2
    # Between two lists: neither its deletion nor its creation is news of its own.
    assert tell(world, "resourceclaims", claim("new", 20))
    assert free(world) == 8
    assert not heard[-1].lost_allocation
    assert not tell(world, "resourceclaims", claim("old", 15, memory="6Gi"), "DELETED")
    assert world.claims.get(("default", "c")) is not None


def test_a_claim_that_is_placed_anew_between_two_lists_frees_the_old_place(world: World) -> None:
    tell(world, "resourceclaims", claim("one", 10, memory="6Gi"))
    assert tell(world, "resourceclaims", claim("one", 20, memory="2Gi"))
    assert free(world) == 6
    assert not tell(world, "resourceclaims", claim("one", 15, memory="6Gi"))
    assert free(world) == 6


def test_an_allocation_that_was_written_is_no_reason_to_look_at_all_others(world: World) -> None:
    tell(world, "resourceclaims", claim("one", 10))
    before = world.supply_version
    world.assume(None, [claim("one", 10)], placement("one", 6))
    assert free(world) == 2
    world.take_in_claim(claim("one", 12, memory="6Gi"))
    world.settle(claim("one", 12))
    assert (free(world), world.supply_version) == (2, before)


@pytest.mark.parametrize("gone", [False, True], ids=["there", "gone"])
def test_one_that_was_not_written_is(world: World, *, gone: bool) -> None:
    tell(world, "resourceclaims", claim("one", 10))
    world.assume(None, [claim("one", 10)], placement("one", 6))
    if gone:
        tell(world, "resourceclaims", claim("one", 11), "DELETED")
    before = world.supply_version
    world.settle(claim("one", 10))
    assert free(world) == 8
    assert world.supply_version > before
    again = world.supply_version
    world.settle(claim("one", 10))
    assert world.supply_version == again


def test_one_that_others_wrote_smaller_is(world: World) -> None:
    tell(world, "resourceclaims", claim("one", 10))
    world.assume(None, [claim("one", 10)], placement("one", 6))
    before = world.supply_version
    tell(world, "resourceclaims", claim("one", 12, memory="1Gi"))
    world.settle(claim("one", 10))
    assert free(world) == 7
    assert world.supply_version > before


def test_a_pod_that_shrinks_or_ends_makes_room_and_one_that_only_changes_does_not(world: World) -> None:
    assert not tell(world, "pods", pod("one", 10, cpu="8"))
    assert not tell(world, "pods", pod("one", 11, cpu="8"))
    assert tell(world, "pods", pod("one", 12, cpu="4"))
    assert not tell(world, "pods", pod("one", 11, cpu="8"))
    assert tell(world, "pods", pod("one", 13, cpu="4", phase="Succeeded"))


@pytest.mark.parametrize("claims", [True, False])
def test_the_end_of_a_pod_makes_room(world: World, *, claims: bool) -> None:
    tell(world, "pods", pod("one", 10, claims=claims))
    assert tell(world, "pods", pod("one", 10, claims=claims), "DELETED")


def test_the_end_of_a_pod_leaves_the_seat_of_the_next_of_its_name(world: World) -> None:
    tell(world, "pods", pod("old", 10))
    tell(world, "pods", pod("new", 20, cpu="16"))
    assert not tell(world, "pods", pod("old", 15), "DELETED")
    assert tell(world, "pods", pod("new", 20, cpu="16"), "DELETED")


def test_a_class_that_changes_hands_changes_whose_claims_they_are(world: World) -> None:
    assert world.is_ours(claim("one", 10))
    other = {**cluster.device_class(), "spec": {"selectors": [{"cel": {"expression": "device.driver == 'other'"}}]}}
    assert tell(world, "deviceclasses", other)
    assert not world.is_ours(claim("one", 10))
    assert tell(world, "deviceclasses", other, "DELETED")
    assert world.is_ours(claim("one", 10))
    assert tell(world, "deviceclasses", cluster.device_class(), "ADDED")
    assert world.is_ours(claim("one", 10))


def test_admin_access_holds_nothing_while_it_is_written(world: World) -> None:
    tell(world, "resourceclaims", claim("one", 10))
    plan = placement("one", 6)
    world.assume(None, [claim("one", 10)], Placement(node="n1", devices=(replace(plan.devices[0], admin=True),)))
    assert free(world) == 8


def test_a_template_claim_of_another_pod_of_that_name_is_not_the_pods(world: World) -> None:
    waiting = pod("one", 10)
    waiting["spec"]["resourceClaims"] = [{"name": "own-c", "resourceClaimTemplateName": "t"}]
    waiting["status"]["resourceClaimStatuses"] = [{"name": "own-c", "resourceClaimName": "c"}]
    tell(world, "resourceclaims", claim("left", 10))
    assert world.claims_of(waiting) == ([], ["own-c"])
    mine = claim("mine", 11)
    owner = {"apiVersion": "v1", "kind": "Pod", "name": "p", "uid": "one", "controller": True}
    mine["metadata"]["ownerReferences"] = [owner]
    tell(world, "resourceclaims", mine)
    assert world.claims_of(waiting) == ([mine], [])


def test_a_pod_that_goes_before_it_is_bound_gives_its_cpu_back(world: World) -> None:
    tell(world, "resourceclaims", claim("one", 10, memory="1Gi"))
    going = pod("one", 11)
    del going["spec"]["nodeName"]
    assert not tell(world, "pods", going)
    going = {**going, "metadata": {**going["metadata"], "resourceVersion": "12", "deletionTimestamp": "2026-01-01"}}
    assert tell(world, "pods", going)


def test_slices_that_say_the_same_again_are_no_reason_to_look(world: World) -> None:
    piece = cluster.slice_of("n1", [cluster.device(0, 8)])
    piece["spec"]["pool"]["generation"] = 2
    assert not tell(world, "resourceslices", piece)
    assert tell(world, "resourceslices", cluster.slice_of("n1", [cluster.device(0, 8), cluster.device(1, 8)]))
    assert tell(world, "resourceslices", piece, "DELETED")
    assert tell(world, "resourceslices", piece, "ADDED")


def test_slices_that_vanish_and_return_find_everything_held_as_before(world: World) -> None:
    tell(world, "resourceclaims", claim("one", 10, memory="6Gi"))
    piece = cluster.slice_of("n1", [cluster.device(0, 8)])
    tell(world, "resourceslices", piece, "DELETED")
    assert world.ledger.free(GPU) is None
    tell(world, "resourceslices", piece, "ADDED")
    assert free(world) == 2


def test_of_a_quota_only_the_limits_are_a_reason_to_look(world: World) -> None:
    quota: Json = {
        "metadata": {"name": "team", "namespace": "default", "uid": "q", "resourceVersion": "5"},
        "spec": {"hard": {"memory": "6Gi"}},
    }
    assert tell(world, "fractionquotas", quota)
    used = {**quota, "metadata": {**quota["metadata"], "resourceVersion": "6"}, "status": {"used": {"memory": "1Gi"}}}
    assert not tell(world, "fractionquotas", used)
    meta = {**quota["metadata"], "resourceVersion": "7"}
    assert tell(world, "fractionquotas", {"metadata": meta, "spec": {"hard": {"memory": "8Gi"}}})
    assert tell(world, "fractionquotas", {"metadata": meta, "spec": {}}, "DELETED")

"""The rules by which a node prepares and releases claims, with an API and a driver that are dictionaries."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from fracgpu.driver.errors import FracgpuError
from fracgpu.sim.node import claims as claims_module
from fracgpu.sim.node.api import Json
from fracgpu.sim.node.claims import ClaimManager
from fracgpu.sim.node.dra_client import ClaimRef, PreparedDevice
from fracgpu.sim.node.errors import ContainerCreateError, PrepareFailed, UnprepareFailed
from fracgpu.sim.node.registration import RegisteredPlugin
from fracgpu.sim.transport import ApiRefusedError


class World:
    """Claims by name, drivers that are registered, and what was called. `fails` are drivers that fail after half."""

    def __init__(self, checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.checkpoint = checkpoint
        self.claims: dict[str, Json] = {}
        self.drivers = {"a.example.com", "b.example.com"}
        self.fails: set[str] = set()
        self.calls: list[tuple[str, str, list[str]]] = []
        monkeypatch.setattr(claims_module, "node_prepare", self._prepare)
        monkeypatch.setattr(claims_module, "node_unprepare", self._unprepare)
        self.manager = self.restart()

    def restart(self) -> ClaimManager:
        as_api: Any = self
        as_registry: Any = _Registry(self.drivers)
        self.manager = ClaimManager(as_api, as_registry, self.checkpoint)
        return self.manager

    def get(self, path: str) -> Json:
        name = path.rpartition("/")[2]
        if name not in self.claims:
            raise ApiRefusedError("API request", f'resourceclaims "{name}" not found', code=404, reason="NotFound")
        return self.claims[name]

    def claim(self, name: str, *pods: str, uid: str = "", owner: str = "", drivers: Sequence[str] = ("a",)) -> None:
        metadata: Json = {"namespace": "ns", "name": name, "uid": uid or f"uid-{name}"}
        if owner:
            metadata["ownerReferences"] = [{"kind": "Pod", "uid": owner, "controller": True}]
        results = [{"driver": f"{driver}.example.com", "device": "d"} for driver in drivers]
        status: Json = {"reservedFor": [{"uid": pod} for pod in pods]}
        if drivers:
            status["allocation"] = {"devices": {"results": results}}
        self.claims[name] = {"metadata": metadata, "status": status}

    def _prepare(self, plugin: RegisteredPlugin, claims: Sequence[ClaimRef]) -> Any:
        self.calls.append(("prepare", plugin.driver, [claim.name for claim in claims]))
        for claim in claims:
            yield claim, (device(plugin.driver, claim.name),)
            if plugin.driver in self.fails:
                raise PrepareFailed(plugin.driver, "half of it", remedy="again")

    def _unprepare(self, plugin: RegisteredPlugin, claims: Sequence[ClaimRef]) -> None:
        self.calls.append(("unprepare", plugin.driver, [claim.name for claim in claims]))
        if plugin.driver in self.fails:
            raise UnprepareFailed(plugin.driver, "busy", remedy="again")


class _Registry:
    def __init__(self, drivers: set[str]) -> None:
        self._drivers = drivers

    def get(self, driver: str) -> RegisteredPlugin | None:
        if driver not in self._drivers:
            return None
        return RegisteredPlugin(driver=driver, endpoint="/s", service="v1.DRAPlugin")


def device(driver: str, claim: str) -> PreparedDevice:
    return PreparedDevice(
        driver=driver,
        request_names=("gpu",),
        pool_name="n",
        device_name="d",
        cdi_device_ids=(f"{driver}/x={claim}",),
        share_id="",
    )


def pod(uid: str, *claims: str, made: dict[str, str | None] | None = None, ask: Sequence[Json] = ()) -> Json:
    """Return a pod that names ``claims`` and has templates whose claims are ``made`` (None: none was needed)."""
    entries: list[Json] = [{"name": name, "resourceClaimName": name} for name in claims]
    statuses = []
    for name, claim in (made or {}).items():
        entries.append({"name": name, "resourceClaimTemplateName": "t"})
        statuses.append({"name": name} | ({"resourceClaimName": claim} if claim else {}))
    container = {"name": "main", "resources": {"claims": list(ask) or [{"name": name} for name in claims]}}
    return {
        "metadata": {"namespace": "ns", "name": f"pod-{uid}", "uid": uid},
        "spec": {"resourceClaims": entries, "containers": [container]},
        "status": {"resourceClaimStatuses": statuses},
    }


def ids(world: World, of: Json) -> list[str]:
    return world.manager.cdi_devices(of, of["spec"]["containers"][0])


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> World:
    return World(tmp_path / "state", monkeypatch)


def refused(world: World, of: Json) -> str:
    with pytest.raises(FracgpuError) as caught:
        world.manager.prepare(of)
    return caught.value.what


def test_a_claim_must_be_reserved_allocated_and_there(world: World) -> None:
    assert refused(world, pod("1", "c")) == 'fetch ResourceClaim c: resourceclaims "c" not found'
    world.claim("c", drivers=())
    assert refused(world, pod("1", "c")) == "pod pod-1 (1) is not allowed to use ResourceClaim c (uid-c)"
    world.claim("c", "1", drivers=())
    assert refused(world, pod("1", "c")) == "ResourceClaim c: not allocated"
    assert world.calls == []


def test_a_claim_of_a_template_must_be_made_for_the_pod(world: World) -> None:
    made: dict[str, str | None] = {"gpu": "c"}
    waiting = pod("1", made=made)
    waiting["status"] = {}
    assert refused(world, waiting) == 'pod "ns/pod-1": ResourceClaim not created yet'
    world.claim("c", "1", owner="2")
    assert (
        refused(world, pod("1", made=made)) == "ResourceClaim ns/c was not created for Pod ns/pod-1 (Pod is not owner)"
    )
    world.claim("c", "1", owner="1")
    world.manager.prepare(pod("1", made=made))
    # The maker of claims may say that none is needed.
    world.manager.prepare(pod("2", made={"gpu": None}))
    assert world.calls == [("prepare", "a.example.com", ["c"])]


def test_all_is_checked_before_anything_is_remembered_or_asked_for(world: World) -> None:
    world.claim("first", "1")
    world.claim("second", "1", drivers=("b",))
    world.drivers.remove("b.example.com")
    assert refused(world, pod("1", "first", "second")) == "DRA driver b.example.com is not registered"
    # So the pod can leave, with no driver at all.
    world.drivers.clear()
    world.manager.release(pod("1", "first", "second"))
    assert world.calls == []


def test_a_prepared_claim_too_needs_its_driver(world: World) -> None:
    world.claim("c", "1", "2")
    world.manager.prepare(pod("1", "c"))
    world.drivers.clear()
    assert refused(world, pod("2", "c")) == "DRA driver a.example.com is not registered"
    world.drivers.add("a.example.com")
    world.manager.prepare(pod("2", "c"))
    assert world.calls == [("prepare", "a.example.com", ["c"])]


def test_a_retry_appends_devices_again(world: World) -> None:
    world.claim("c", "1")
    world.claim("d", "1")
    one = pod("1", "c", "d")
    world.fails = {"a.example.com"}
    assert refused(world, one) == "half of it"
    world.fails = set()
    world.manager.prepare(one)
    assert sorted(ids(world, one)) == ["a.example.com/x=c", "a.example.com/x=c", "a.example.com/x=d"]
    # Named once however often it is there.
    (status,) = [entry for entry in world.manager.allocated_resources(one)["main"] if entry["name"] == "claim:c"]
    assert status["resources"] == [{"resourceID": "a.example.com/x=c", "health": "Unknown"}]


def test_after_a_restart_a_new_sandbox_has_its_claims_prepared_again(world: World) -> None:
    world.claim("c", "1")
    world.manager.prepare(pod("1", "c"))
    world.restart()
    # What was prepared is known, for containers that run on.
    assert ids(world, pod("1", "c")) == ["a.example.com/x=c"]
    world.manager.prepare(pod("1", "c"))
    assert [call for call, _, _ in world.calls] == ["prepare", "prepare"]
    assert ids(world, pod("1", "c")) == ["a.example.com/x=c"] * 2


def test_ids_of_several_claims_come_in_any_order_and_as_often_as_asked(world: World) -> None:
    names = [f"c{index}" for index in range(5)]
    for name in names:
        world.claim(name, "1")
    one = pod("1", *names)
    world.manager.prepare(one)
    assert len({tuple(ids(world, one)) for _ in range(50)}) > 1
    twice = pod("1", *names, ask=[{"name": "c0"}, {"name": "c0", "request": "gpu"}, {"name": "c1", "request": "other"}])
    assert ids(world, twice) == ["a.example.com/x=c0"] * 2


def test_an_entry_of_the_status_without_devices_is_left_out(world: World) -> None:
    world.claim("c", "1")
    one = pod("1", "c", ask=[{"name": "c", "request": "other"}, {"name": "c", "request": "gpu/alternative"}])
    assert world.manager.allocated_resources(one) == {"main": []}
    world.manager.prepare(one)
    (entry,) = world.manager.allocated_resources(one)["main"]
    assert entry["name"] == "claim:c/gpu/alternative"


def test_a_device_without_cdi_id_is_named_by_driver_pool_and_device(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    bare = PreparedDevice("a.example.com", (), "n", "d", (), "")
    monkeypatch.setattr(claims_module, "node_prepare", lambda _, claims: [(claim, (bare,)) for claim in claims])
    world.claim("c", "1")
    world.manager.prepare(pod("1", "c"))
    (entry,) = world.manager.allocated_resources(pod("1", "c"))["main"]
    assert entry["resources"] == [{"resourceID": "a.example.com/n/d", "health": "Unknown"}]


def test_a_claim_is_released_with_its_last_pod(world: World) -> None:
    world.claim("c", "1", "2")
    world.manager.prepare(pod("1", "c"))
    world.manager.prepare(pod("2", "c"))
    world.manager.release(pod("1", "c"))
    assert [call for call, _, _ in world.calls] == ["prepare"]
    world.fails = {"a.example.com"}
    with pytest.raises(UnprepareFailed, match="busy"):
        world.manager.release(pod("2", "c"))
    world.fails = set()
    world.manager.release(pod("2", "c"))
    world.manager.release(pod("2", "c"))
    assert [call for call, _, _ in world.calls] == ["prepare", "unprepare", "unprepare"]


def test_a_release_needs_the_driver(world: World) -> None:
    world.claim("c", "1")
    world.manager.prepare(pod("1", "c"))
    world.drivers.clear()
    with pytest.raises(UnprepareFailed, match=r"DRA driver a\.example\.com is not registered"):
        world.manager.release(pod("1", "c"))


def test_a_pod_that_never_prepared_takes_the_claim_of_another_along(world: World) -> None:
    world.claim("c", "1", "2")
    world.manager.prepare(pod("1", "c"))
    world.drivers.clear()
    refused(world, pod("2", "c"))
    world.drivers.add("a.example.com")
    world.manager.release(pod("2", "c"))
    assert world.calls[-1] == ("unprepare", "a.example.com", ["c"])
    # The container of the other pod can not be started again.
    with pytest.raises(ContainerCreateError, match="unable to get claim info for ResourceClaim c in namespace ns"):
        ids(world, pod("1", "c"))


def test_claims_of_pods_that_are_gone_are_released(world: World) -> None:
    world.claim("c", "1")
    world.claim("d", "2")
    world.manager.prepare(pod("1", "c"))
    world.manager.prepare(pod("2", "d"))
    world.fails = {"a.example.com"}
    world.manager.release_gone({"2"})
    world.fails = set()
    world.manager.release_gone({"2"})
    world.manager.release_gone({"2"})
    assert world.calls[2:] == [("unprepare", "a.example.com", ["c"])] * 2


def test_an_older_claim_of_the_name_is_in_the_way(world: World) -> None:
    world.claim("c", "1")
    world.manager.prepare(pod("1", "c"))
    world.claim("c", "2", uid="another")
    assert refused(world, pod("2", "c")) == (
        "old ResourceClaim with same name c and different UID uid-c still exists (previous pod force-deleted?!)"
    )

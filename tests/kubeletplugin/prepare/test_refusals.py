"""What Prepare refuses: the whole text of each refusal, and that it leaves nothing behind."""

import shutil
from dataclasses import replace
from decimal import Decimal
from typing import Any

import pytest

from fracgpu.driver.errors import FracgpuError
from fracgpu.driver.names import API_VERSION
from fracgpu.kubeletplugin.errors import InterceptorDamaged
from fracgpu.kubeletplugin.prepare.checkpoint import CheckpointStore, EntryState
from fracgpu.kubeletplugin.prepare.files import Files

GIB = 1024**3
SHARE = "3f3b2c1a-0000-4000-8000-000000000001"
SUBJECT = "claim ns/c1 request gpu device gpu-11111111"
CONSUMED = {"memory": "8Gi", "cores": "30", "slots": "1"}


def refused(world: Any, ref: Any) -> str:
    """Return the error text of preparing `ref`, after checking that nothing is left on the disk."""
    preparer = world.preparer()
    before = world.residue()
    with pytest.raises(FracgpuError) as error:
        preparer.prepare(ref)
    assert world.residue() == before
    assert (
        not (world.options.state_dir / "checkpoint.json").exists()
        or ref.uid not in (world.options.state_dir / "checkpoint.json").read_text()
    )
    return str(error.value)


CLAIMS = [
    (
        "not-allocated",
        lambda claim: claim.pop("status"),
        "claim ns/c1: is not allocated; wait for the allocator; if the pod sets nodeName, remove it",
    ),
    (
        "no-results",
        lambda claim: claim["status"]["allocation"]["devices"].pop("results"),
        "claim ns/c1: has no device of driver gpu.fracgpu.dev; check its device classes",
    ),
    (
        "other-driver-only",
        lambda claim: claim["status"]["allocation"]["devices"]["results"][0].update(driver="nic.example.com"),
        "claim ns/c1: has no device of driver gpu.fracgpu.dev; check its device classes",
    ),
    (
        "no-uid",
        lambda claim: claim["metadata"].pop("uid"),
        "claim ns/c1: field metadata.uid is missing; check what wrote this claim; it is no ResourceClaim v1",
    ),
    (
        "no-pool",
        lambda claim: claim["status"]["allocation"]["devices"]["results"][0].pop("pool"),
        "claim ns/c1: field pool is missing; check what wrote this claim; it is no ResourceClaim v1",
    ),
    (
        "results-no-list",
        lambda claim: claim["status"]["allocation"]["devices"].update(results={}),
        "claim ns/c1: field devices.results is dict, not list; check what wrote this claim; it is no ResourceClaim v1",
    ),
    (
        "result-no-object",
        lambda claim: claim["status"]["allocation"]["devices"].update(results=["x"]),
        "claim ns/c1: field devices.results is no list of objects; "
        "check what wrote this claim; it is no ResourceClaim v1",
    ),
    (
        "devices-no-object",
        lambda claim: claim["status"]["allocation"].update(devices="x"),
        "claim ns/c1: field devices.results is not below an object but str; "
        "check what wrote this claim; it is no ResourceClaim v1",
    ),
    (
        "admin-no-bool",
        lambda claim: claim["status"]["allocation"]["devices"]["results"][0].update(adminAccess="true"),
        "claim ns/c1: field adminAccess is str, not bool; check what wrote this claim; it is no ResourceClaim v1",
    ),
    (
        "unknown-source",
        lambda claim: claim["status"]["allocation"]["devices"]["config"][0].update(source="FromMe"),
        "claim ns/c1: field source is 'FromMe'; check what wrote this claim; it is no ResourceClaim v1",
    ),
    (
        "share-id-no-uuid",
        lambda claim: claim["status"]["allocation"]["devices"]["results"][0].update(shareID="../../etc"),
        f"{SUBJECT}: shareID '../../etc' is not a UUID; let the allocator write it",
    ),
    (
        "request-leaves-the-directory",
        lambda claim: [
            claim["status"]["allocation"]["devices"]["results"][0].update(request=".."),
            claim["status"]["allocation"]["devices"]["config"][0]["opaque"]["parameters"]["results"][0].update(
                request=".."
            ),
        ],
        "claim ns/c1 request .. device gpu-11111111: allocation id part '..' has characters that CDI refuses; "
        "use letters, digits, dots and dashes, alphanumeric at both ends",
    ),
]


@pytest.mark.parametrize(("alter", "text"), [case[1:] for case in CLAIMS], ids=[case[0] for case in CLAIMS])
def test_malformed_claims(world: Any, alter: Any, text: str) -> None:
    ref = world.claim()
    alter(world.change(ref))
    assert refused(world, ref) == text


SHARES = [
    (
        "other-node",
        ({"pool": "n2"},),
        {},
        f"{SUBJECT}: is allocated in pool n2, this is node n1; "
        "delete the pod; a pod that sets nodeName must take a claim allocated there",
    ),
    (
        "no-such-device",
        ({"device": "gpu-deadbeef"},),
        {},
        "claim ns/c1 request gpu device gpu-deadbeef: is not on node n1, which has: gpu-11111111, gpu-22222222; "
        "delete the claim so that it is allocated again; if a GPU is missing, read the kernel log for Xid",
    ),
    (
        "no-grant",
        ({},),
        {"grant": False},
        f"{SUBJECT}: the allocation has no FractionGrant for this result; "
        "delete the claim and let the fracgpu controller allocate a new one",
    ),
    (
        "no-memory",
        ({"memory": 0},),
        {},
        f"{SUBJECT}: memory is 0 without admin access; ask for at least 1Mi of memory",
    ),
    (
        "no-slot",
        ({"slots": 0},),
        {},
        f"{SUBJECT}: slots is 0 without admin access; ask for at least 1 of slots",
    ),
    (
        "more-than-the-card",
        ({"memory": 45 * GIB},),
        {},
        f"{SUBJECT}: memory 45Gi is more than the GPU's 44Gi; ask for less, or select larger GPUs",
    ),
    (
        "consumed-differs-from-grant",
        ({"consumed": {**CONSUMED, "memory": "4Gi"}},),
        {},
        f"{SUBJECT}: memory is 4Gi in consumedCapacity but 8Gi in the FractionGrant; state it once, or alike in both",
    ),
    (
        "consumed-no-quantity",
        ({"consumed": {**CONSUMED, "memory": "much"}},),
        {},
        f"{SUBJECT}: capacity memory 'much' is not a quantity; write it like 8Gi, 3000Mi, 500m or 1e9",
    ),
    (
        "unknown-config-field",
        ({},),
        {"claim_config": {"memroy": "1Gi"}},
        f"{SUBJECT}: FractionConfig field memroy is unknown; "
        "known fields: burstCores, cores, coresPolicy, enforcement, memory, "
        "memoryPercent, onViolation, oversubscribe, placement, strict, utilizationView, weight",
    ),
    (
        "class-field-in-a-claim",
        ({},),
        {"claim_config": {"enforcement": "None"}},
        f"{SUBJECT}: FractionConfig field enforcement may only be set by a class; "
        "remove it from the claim; an administrator sets it in the DeviceClass",
    ),
    (
        "two-shares-beyond-the-card",
        ({"request": "a", "memory": 30 * GIB}, {"request": "b", "memory": 20 * GIB}),
        {},
        "claim ns/c1 device gpu-11111111: CardInsufficientMemory (need 51200Mi memory, free 45056Mi of 45056Mi); "
        "delete the claim so that it is allocated again, and see that only one allocator uses this GPU",
    ),
    (
        "one-id-twice",
        ({"share_id": SHARE}, {"share_id": SHARE[:-1] + "2"}),
        {},
        "claim ns/c1: two results have the allocation id {uid}-gpu-gpu-11111111-3f3b2c1a; "
        "delete the claim so that it is allocated again, with other share ids",
    ),
]


@pytest.mark.parametrize(("shares", "changes", "text"), [case[1:] for case in SHARES], ids=[case[0] for case in SHARES])
def test_allocations_that_can_not_be_granted(
    world: Any, shares: tuple[dict[str, Any], ...], changes: dict[str, Any], text: str
) -> None:
    ref = world.claim("c1", *shares, **changes)
    assert refused(world, ref) == text.format(uid=ref.uid)


def grant(results: list[Any], **changes: Any) -> dict[str, Any]:
    return {"apiVersion": API_VERSION, "kind": "FractionGrant", "results": results, **changes}


GRANTS = [
    (
        "from-the-claim",
        [("FromClaim", grant([]))],
        f"{SUBJECT}: FractionGrant comes from the claim, where anyone can write one; "
        "remove it from spec.devices.config; the allocator grants",
    ),
    (
        "two",
        [("FromClass", grant([])), ("FromClass", grant([]))],
        f"{SUBJECT}: FractionGrant is there 2 times; remove the one from the DeviceClass; the controller grants",
    ),
    (
        "other-version",
        [("FromClass", grant([], apiVersion="gpu.fracgpu.dev/v9"))],
        f"{SUBJECT}: FractionGrant field apiVersion is 'gpu.fracgpu.dev/v9'; set it to gpu.fracgpu.dev/v1alpha1",
    ),
    (
        "for-another-result",
        [("FromClass", grant([]))],
        f"{SUBJECT}: the allocation has no FractionGrant for this result; "
        "delete the claim and let the fracgpu controller allocate a new one",
    ),
]


@pytest.mark.parametrize(("entries", "text"), [case[1:] for case in GRANTS], ids=[case[0] for case in GRANTS])
def test_wrong_grants(world: Any, make_opaque: Any, entries: list[tuple[str, Any]], text: str) -> None:
    ref = world.claim(grant=False)
    world.change(ref)["status"]["allocation"]["devices"]["config"] = [make_opaque(*entry) for entry in entries]
    assert refused(world, ref) == text


SCHEDULER = [
    (
        "dropped",
        {},
        {},
        f"{SUBJECT}: the result has no consumedCapacity; "
        "enable DRAConsumableCapacity in the API server, or set allocator to controller",
    ),
    (
        "incomplete",
        {"consumed": {"memory": "8Gi"}},
        {},
        f"{SUBJECT}: consumedCapacity lacks cores, slots; delete the claim and let it be allocated again",
    ),
    (
        "claim-says-otherwise",
        {"consumed": CONSUMED},
        {"claim_config": {"memory": "9Gi"}},
        f"{SUBJECT}: memory is 8Gi in consumedCapacity but 9Gi in the claim's FractionConfig; "
        "state it once, or alike in both",
    ),
    (
        "percent",
        {"consumed": CONSUMED},
        {"claim_config": {"memoryPercent": 10}},
        f"{SUBJECT}: memoryPercent 10 in a claim that kube-scheduler allocated; "
        "state memory in capacity.requests, or set allocator to controller",
    ),
]


@pytest.mark.parametrize(
    ("share", "changes", "text"), [case[1:] for case in SCHEDULER], ids=[case[0] for case in SCHEDULER]
)
def test_allocations_of_kube_scheduler(world: Any, share: dict[str, Any], changes: dict[str, Any], text: str) -> None:
    world.configure(allocator="scheduler")
    assert refused(world, world.claim("c1", share, grant=False, **changes)) == text


FULL = [
    (
        "memory",
        {"memory": 40 * GIB},
        {"memory": 5 * GIB},
        "CardInsufficientMemory (need 5120Mi memory, free 4096Mi of 45056Mi)",
    ),
    ("cores", {"cores": 80}, {"cores": 30}, "CardInsufficientCore (need 30 cores, free 20 of 100)"),
]


@pytest.mark.parametrize(("first", "second", "text"), [case[1:] for case in FULL], ids=[case[0] for case in FULL])
def test_a_full_gpu(world: Any, first: dict[str, Any], second: dict[str, Any], text: str) -> None:
    world.preparer().prepare(world.claim("c0", first))
    assert refused(world, world.claim("c1", second)).startswith(f"claim ns/c1 device gpu-11111111: {text}; delete the")
    world.preparer().prepare(world.claim("c1", {**second, "device": "gpu-22222222"}))


def test_no_slot_is_left(world: Any) -> None:
    world.configure(slots=2)
    for name in ("a", "b"):
        world.preparer().prepare(world.claim(name, {"memory": GIB, "cores": 0}))
    text = refused(world, world.claim("c1", {"memory": GIB, "cores": 0}))
    assert text.startswith("claim ns/c1 device gpu-11111111: CardTimeSlicingExhausted (need 1 slots, free 0 of 2); ")


def test_scales_allow_as_much_as_they_say_and_no_more(world: Any) -> None:
    world.configure(memory_scale=Decimal("1.5"), cores_scale=Decimal("1.2"))
    preparer = world.preparer()
    preparer.prepare(world.claim("a", {"memory": 44 * GIB, "cores": 100}))
    preparer.prepare(world.claim("b", {"memory": 22 * GIB, "cores": 20}))
    assert "need 1Mi memory, free 0Mi of 67584Mi" in refused(world, world.claim("c1", {"memory": 2**20, "cores": 0}))


def test_what_is_prepared_stays_so_when_a_scale_is_lowered(world: Any) -> None:
    world.configure(memory_scale=Decimal(2))
    refs = [world.claim(name, {"memory": 44 * GIB, "cores": 0}) for name in ("a", "b")]
    first = [world.preparer().prepare(ref) for ref in refs]
    world.configure(memory_scale=Decimal(1))
    assert [world.preparer().prepare(ref) for ref in refs] == first
    assert "free 0Mi of 45056Mi" in refused(world, world.claim("c1", {"memory": 2**20, "cores": 0}))


def test_a_gpu_that_does_not_answer(world: Any) -> None:
    world.inventory.gpus = (world.gpu(0, healthy=False),)
    assert refused(world, world.claim()) == (
        f"{SUBJECT}: GPU GPU-11111111-1111-1111-1111-111111111111 does not answer; "
        "look for Xid in the kernel log of the node and reset the GPU"
    )


def test_a_gpu_without_a_device_node(world: Any) -> None:
    (world.options.dev_root / "dev/nvidia0").unlink()
    assert refused(world, world.claim()).startswith("device node /dev/nvidia0: is not on this node; load the nvidia")
    world.inventory.gpus = (world.gpu(0, minor_number=None),)
    assert refused(world, world.claim()).startswith("GPU GPU-11111111-1111-1111-1111-111111111111: has no minor number")


def test_a_node_whose_driver_went_away(world: Any) -> None:
    for library in (world.options.driver_root / "usr/lib/x86_64-linux-gnu").iterdir():
        library.unlink()
    assert refused(world, world.claim()) == (
        f"driver root {world.options.driver_root}: no libcuda.so.<version> in any library directory; "
        "install the NVIDIA driver on this node or correct --driver-root"
    )


def test_a_driver_whose_files_were_replaced_while_it_runs(world: Any) -> None:
    """A package update without a reboot: containers would get libraries that the kernel module turns away."""
    libraries = world.options.driver_root / "usr/lib/x86_64-linux-gnu"
    for stem in ("libcuda", "libnvidia-ml"):
        (libraries / f"{stem}.so.580.65.06").rename(libraries / f"{stem}.so.590.10.01")
        (libraries / f"{stem}.so.1").unlink()
    ref = world.claim()
    assert refused(world, ref) == (
        "GPU GPU-11111111-1111-1111-1111-111111111111: runs with driver 580.65.6, but the files in "
        f"{world.options.driver_root} are of 590.10.1; "
        "reboot the node or reload the nvidia kernel modules, so that the installed driver is the one in use"
    )
    # A GPU that does not say which driver it runs with proves nothing.
    world.inventory.gpus = (world.gpu(0, driver_version="0.0.0"),)
    assert world.preparer().prepare(ref).devices


def test_a_claim_being_prepared_counts(world: Any) -> None:
    other = world.claim("other", {"memory": 40 * GIB})
    world.preparer().prepare(other)
    store = CheckpointStore(world.options.state_dir / "checkpoint.json", Files())
    store.save(store.load().with_entry(replace(store.load().entries[other.uid], state=EntryState.PREPARING)))
    assert "CardInsufficientMemory" in refused(world, world.claim("c1"))


def test_a_node_whose_interceptor_was_removed(world: Any) -> None:
    preparer = world.preparer()
    (stored,) = (world.options.state_dir / "lib").iterdir()
    shutil.rmtree(stored)
    preparer.prepare(world.claim("c0"))
    assert sorted(path.name for path in stored.iterdir()) == ["libcuda.so.1", "libnvidia-ml.so.1"]


def test_a_node_whose_interceptor_was_removed_after_the_plugin_s_own_files_changed(world: Any) -> None:
    ref, preparer = world.claim(), world.preparer()
    (stored,) = (world.options.state_dir / "lib").iterdir()
    shutil.rmtree(stored)
    world.libraries[0].write_bytes(b"a package was updated under the running plugin")
    with pytest.raises(InterceptorDamaged) as error:
        preparer.prepare(ref)
    assert str(error.value) == (
        f"interceptor {stored}: is not on this node any more; restart the plugin, it stores the interceptor again"
    )
    assert world.residue() == []
    assert len(world.preparer().prepare(ref).devices) == 1

"""Properties: what is written is what is read back, Prepare's rule accepts it, and junk raises nothing of its own."""

from __future__ import annotations

import uuid
from collections.abc import Callable
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from fracgpu.controller.fit.views import PlacedDevice
from fracgpu.controller.objects import facts
from fracgpu.controller.objects.allocation import build_allocation
from fracgpu.controller.objects.classes import is_ours
from fracgpu.controller.objects.demand import build_demand
from fracgpu.controller.objects.holdings import holdings_of, node_of
from fracgpu.controller.objects.inventory import gpus_of, read_inventory
from fracgpu.controller.objects.node_fit import PodNeeds, node_facts, pod_requests, selects
from fracgpu.driver.amounts import Amounts, granted_amounts
from fracgpu.driver.codes import ReasonCode
from fracgpu.driver.errors import FracgpuError
from fracgpu.driver.grant import is_grant, parse_grant
from fracgpu.driver.parameters import canonical_json

MIB = 1024**2
PHYSICAL = 80 * 1024 * MIB
CLASS = {
    "metadata": {"name": "k"},
    "spec": {"selectors": [{"cel": {"expression": "device.driver == 'gpu.fracgpu.dev'"}}]},
}

AMOUNTS = st.builds(
    Amounts,
    memory_bytes=st.integers(1, PHYSICAL // MIB).map(lambda count: count * MIB),
    cores=st.integers(0, 100),
    slots=st.just(1),
)
NOTHING = Amounts(memory_bytes=0, cores=0, slots=0, limited=False)


@st.composite
def placements(draw: Callable[..., Any]) -> list[PlacedDevice]:
    """GPUs for the requests of one claim; several results may be shares of one GPU, some are admin access."""
    placed: list[PlacedDevice] = []
    for at in range(draw(st.integers(1, 8))):
        admin = draw(st.booleans())
        placed.append(
            PlacedDevice(
                claim="u",
                request=draw(st.sampled_from(["a", "b", "c/x"])),
                class_name="k",
                pool=draw(st.sampled_from(["n1", "rack/n2"])),
                device=f"gpu-{draw(st.integers(0, at))}",
                amounts=NOTHING if admin else draw(AMOUNTS),
                admin=admin,
            )
        )
    return placed


def _claim(placed: list[PlacedDevice], *, keeps_capacity: bool) -> Any:
    claim: Any = {"metadata": {"uid": "u"}}
    claim["status"] = {
        "allocation": build_allocation(
            claim,
            "n1",
            placed,
            find_class=lambda _: CLASS,
            keeps_capacity=keeps_capacity,
            now="t",
            share_ids=lambda: str(uuid.uuid4()),
        )
    }
    return claim


@given(placements(), st.booleans())
def test_holdings_are_exactly_what_was_placed(placed: list[PlacedDevice], keeps_capacity: bool) -> None:
    found = holdings_of(_claim(placed, keeps_capacity=keeps_capacity))
    expected = [device for device in placed if not device.admin]
    assert [(one.key, one.memory_bytes, one.cores, one.slots, one.whole) for one in found] == [
        (one.key, one.amounts.memory_bytes, one.amounts.cores, one.amounts.slots, False) for one in expected
    ]


@given(placements(), st.booleans())
def test_prepare_finds_the_amounts_that_were_placed(placed: list[PlacedDevice], keeps_capacity: bool) -> None:
    devices = _claim(placed, keeps_capacity=keeps_capacity)["status"]["allocation"]["devices"]
    (parameters,) = [
        entry["opaque"]["parameters"] for entry in devices["config"] if is_grant(entry["opaque"]["parameters"])
    ]
    grant = parse_grant(parameters, source="FromClass")
    for ordinal, (device, result) in enumerate(zip(placed, devices["results"], strict=True)):
        found = granted_amounts(
            subject="claim",
            allocator="controller",
            physical_memory_bytes=PHYSICAL,
            consumed=result.get("consumedCapacity"),
            grant=grant.find(request=result["request"], pool=result["pool"], device=result["device"], ordinal=ordinal),
            admin_access=result.get("adminAccess", False),
        )
        assert found == device.amounts


@given(placements())
def test_allocation_has_one_encoding(placed: list[PlacedDevice]) -> None:
    assert canonical_json(_claim(placed, keeps_capacity=True)["status"]["allocation"])


# Keys and values that our readers look at, so that junk gets deep into them.
_NAMES = """
    metadata name namespace uid labels ownerReferences finalizers spec status devices requests exactly firstAvailable
    deviceClassName count allocationMode adminAccess capacity memory cores slots selectors cel expression tolerations
    key operator value values effect config opaque driver parameters apiVersion kind constraints matchAttribute
    distinctAttribute allocation results request pool device consumedCapacity source nodeSelector nodeSelectorTerms
    matchFields matchExpressions reservedFor nodeName taints conditions allocatable containers initContainers resources
    limits overhead ports hostPort affinity nodeAffinity requiredDuringSchedulingIgnoredDuringExecution generation
    resourceSliceCount attributes string int bool physicalMemoryMiB allocator containerStatuses allocatedResources
    resourceClaims resourceClaimName
"""
_VALUES = """
    gpu.fracgpu.dev gpu.fracgpu.dev/v1alpha1 FractionConfig FractionGrant FromClass controller k a All In Exists Gt
    Ready True NoSchedule 8Gi metadata.name true
"""
_KEYS = st.sampled_from(_NAMES.split())
_SCALARS = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(2**70), 2**70),
    st.floats(),
    st.text(max_size=8),
    st.sampled_from(_VALUES.split()),
)
JUNK = st.recursive(
    _SCALARS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(_KEYS, inner, max_size=4),
    max_leaves=25,
)
_TEMPLATES: Any = {
    "claim": {
        "metadata": {"name": "c", "namespace": "n", "uid": "u"},
        "spec": {
            "devices": {
                "requests": [
                    {
                        "name": "a",
                        "exactly": {
                            "deviceClassName": "k",
                            "count": 1,
                            "capacity": {"requests": {"memory": "8Gi"}},
                            "selectors": [{"cel": {"expression": "true"}}],
                            "tolerations": [{"key": "x", "operator": "Exists"}],
                        },
                    },
                    {"name": "b", "firstAvailable": [{"name": "x", "deviceClassName": "k"}]},
                ],
                "config": [
                    {
                        "requests": ["a"],
                        "opaque": {
                            "driver": "gpu.fracgpu.dev",
                            "parameters": {
                                "apiVersion": "gpu.fracgpu.dev/v1alpha1",
                                "kind": "FractionConfig",
                                "placement": {"topology": "Numa"},
                            },
                        },
                    }
                ],
                "constraints": [{"matchAttribute": "gpu.fracgpu.dev/uuid", "requests": ["a"]}],
            }
        },
        "status": {
            "allocation": {
                "devices": {
                    "results": [
                        {
                            "request": "a",
                            "driver": "gpu.fracgpu.dev",
                            "pool": "n1",
                            "device": "g",
                            "consumedCapacity": {"memory": "1Gi", "cores": "1", "slots": "1"},
                        }
                    ],
                    "config": [],
                },
                "nodeSelector": {
                    "nodeSelectorTerms": [
                        {"matchFields": [{"key": "metadata.name", "operator": "In", "values": ["n"]}]}
                    ]
                },
            },
            "reservedFor": [{"uid": "p"}],
        },
    },
    "pod": {
        "metadata": {"name": "p"},
        "spec": {
            "containers": [{"name": "c", "resources": {"requests": {"cpu": "1"}}, "ports": [{"hostPort": 80}]}],
            "initContainers": [{"name": "i", "restartPolicy": "Always"}],
            "tolerations": [{"key": "x"}],
            "nodeSelector": {"a": "b"},
            "resourceClaims": [{"name": "g", "resourceClaimName": "c"}],
            "affinity": {
                "nodeAffinity": {
                    "requiredDuringSchedulingIgnoredDuringExecution": {
                        "nodeSelectorTerms": [{"matchExpressions": [{"key": "a", "operator": "Gt", "values": ["1"]}]}]
                    }
                }
            },
        },
        "status": {"containerStatuses": [{"name": "c", "resources": {"requests": {"cpu": "1"}}}]},
    },
    "node": {
        "metadata": {"name": "n", "labels": {"a": "b"}},
        "spec": {"taints": [{"key": "x", "effect": "NoSchedule"}]},
        "status": {"allocatable": {"cpu": "1"}, "conditions": [{"type": "Ready", "status": "True"}]},
    },
    "slice": {
        "spec": {
            "driver": "gpu.fracgpu.dev",
            "nodeName": "n",
            "pool": {"name": "n", "generation": 1, "resourceSliceCount": 1},
            "devices": [
                {
                    "name": "g",
                    "attributes": {"allocator": {"string": "controller"}, "physicalMemoryMiB": {"int": 1024}},
                    "capacity": {name: {"value": "1"} for name in ("memory", "cores", "slots")},
                    "taints": [{"key": "x", "effect": "NoSchedule"}],
                }
            ],
        }
    },
    "class": CLASS,
}


@st.composite
def damaged(draw: Callable[..., Any], kind: str) -> Any:
    """An object of some kind with one part of it replaced by junk, or nothing but junk in its place."""
    return _damage(draw, _TEMPLATES[kind])


def _damage(draw: Callable[..., Any], value: Any) -> Any:
    if not isinstance(value, dict | list) or not value or draw(st.integers(0, 5)) == 0:
        return draw(JUNK)
    if isinstance(value, list):
        at = draw(st.integers(0, len(value) - 1))
        return [_damage(draw, item) if index == at else item for index, item in enumerate(value)]
    wanted = draw(st.sampled_from(sorted(value)))
    return {key: _damage(draw, item) if key == wanted else item for key, item in value.items()}


def _objects(kind: str) -> st.SearchStrategy[Any]:
    return damaged(kind).filter(lambda value: isinstance(value, dict))


@given(_objects("claim"), _objects("class"), st.booleans(), st.sampled_from(["controller", "scheduler"]))
def test_junk_in_a_claim_is_refused_in_words_or_understood(
    claim: Any, device_class: Any, keeps_capacity: bool, allocator: Any
) -> None:
    def find(name: str) -> Any:
        return device_class if name == "k" else None

    assert is_ours(claim, find) in (True, False)
    refusal: Any = None
    try:
        build_demand([claim], find, keeps_capacity=keeps_capacity, allocator=allocator)
    except FracgpuError as error:
        refusal = error
    assert refusal is None or (refusal.code in ReasonCode and refusal.what and refusal.remedy)


@given(_objects("claim"))
def test_junk_in_an_allocation_holds_something_or_nothing(claim: Any) -> None:
    for holding in holdings_of(claim):
        assert min(holding.memory_bytes, holding.cores, holding.slots) >= 0
    assert node_of(claim) is None or isinstance(node_of(claim), str)
    assert isinstance(facts.reserved_uids(claim), list)
    assert facts.is_allocated(claim) in (True, False)
    assert facts.has_finalizer(claim) in (True, False)


@given(st.lists(_objects("slice"), max_size=3))
def test_junk_in_slices_costs_nobody_else_anything(slices: list[Any]) -> None:
    good: Any = {"spec": {**_TEMPLATES["slice"]["spec"], "nodeName": "good", "pool": {"name": "good"}}}
    good["spec"]["pool"] |= {"generation": 1, "resourceSliceCount": 1}
    found = read_inventory([*slices, good], owner="controller")
    assert ("good", "g") in {gpu.key for gpu in found.gpus}
    assert list(found.gpus) == gpus_of([*slices, good], owner="controller")


@given(_objects("pod"), _objects("node"), _objects("claim"))
def test_junk_in_pods_and_nodes_is_answered(pod: Any, node: Any, claim: Any) -> None:
    there = node_facts(node)
    reason = PodNeeds.of(pod, [claim]).rejects(there, pod_requests(pod), 0)
    assert reason is None or reason
    assert selects(facts.dig(claim, "status", "allocation", "nodeSelector"), there) in (True, False)
    assert isinstance(facts.claim_names(pod), dict)
    assert facts.waits_for_node(pod) in (True, False)
    assert facts.is_owned_by(pod, node) in (True, False)

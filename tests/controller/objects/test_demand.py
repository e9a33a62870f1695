"""From claims and classes to demands: what is understood, and what is refused in which words."""

from __future__ import annotations

from typing import Any

import pytest

from fracgpu.controller.fit.views import Constraint, GpuView, Toleration
from fracgpu.controller.objects.demand import build_demand
from fracgpu.driver.codes import ReasonCode
from fracgpu.driver.errors import FracgpuError

GIB = 1024**3
NIC = {"metadata": {"name": "nic"}, "spec": {"selectors": [{"cel": {"expression": "device.driver == 'nic.example'"}}]}}


def _gpu(memory: int = 40, **attributes: Any) -> GpuView:
    return GpuView(
        node="n1",
        pool="n1",
        device="gpu-a",
        physical_memory_bytes=memory * GIB,
        memory_bytes=memory * GIB,
        attributes={"allocator": "controller", **attributes},
    )


def _demand(*claims: Any, find: Any, **options: Any) -> Any:
    return build_demand(claims, find, **({"keeps_capacity": True} | options))


def _one(claim: Any, find: Any, **options: Any) -> Any:
    ((request,),) = _demand(claim, find=find, **options).choices
    return request


def _refusal(*claims: Any, find: Any, **options: Any) -> FracgpuError:
    with pytest.raises(FracgpuError) as caught:
        _demand(*claims, find=find, **options)
    return caught.value


def test_request_with_everything(claim: Any, exactly: Any, find_class: Any, opaque: Any) -> None:
    asked = exactly(
        memory="8Gi",
        cores="30",
        count=2,
        selectors=[{"cel": {"expression": "device.attributes['gpu.fracgpu.dev'].productName == 'L40S'"}}],
        tolerations=[{"key": "k", "value": "v", "effect": "NoSchedule"}, {"operator": "Exists"}],
    )
    request = _one(claim(asked, config=[opaque({"placement": {"gpu": "Binpack"}})]), find_class())
    assert (request.claim, request.claim_name, request.name) == ("uid-c", "team/c", "gpu")
    assert (request.count, request.every, request.admin, request.class_name) == (2, False, False, "gpu.fracgpu.dev")
    assert request.tolerations == (
        Toleration(key="k", operator="Equal", value="v", effect="NoSchedule"),
        Toleration(key="", operator="Exists", value="", effect=""),
    )
    assert request.gpu_policy == "Binpack"
    amounts = request.amounts_on(_gpu())
    assert (amounts.memory_bytes, amounts.cores, amounts.slots) == (8 * GIB, 30, 1)
    assert request.selector.matches(_gpu(productName="L40S"))
    assert not request.selector.matches(_gpu(productName="T4"))


def test_class_selectors_hold_too(claim: Any, exactly: Any, find_class: Any, device_class: Any) -> None:
    narrow = device_class(
        expression="device.driver == 'gpu.fracgpu.dev' && device.attributes['gpu.fracgpu.dev'].numaNode == 1"
    )
    request = _one(claim(exactly()), find_class(narrow))
    assert request.selector.matches(_gpu(numaNode=1))
    assert not request.selector.matches(_gpu(numaNode=0))


def test_all_of_a_node_and_admin_access(claim: Any, exactly: Any, find_class: Any) -> None:
    request = _one(claim(exactly(allocationMode="All", adminAccess=True)), find_class())
    assert (request.every, request.admin) == (True, True)
    assert request.amounts_on(_gpu()).memory_bytes == 0


def test_alternatives_stay_in_order_and_carry_their_names(claim: Any, exactly: Any, find_class: Any) -> None:
    several = {
        "name": "b",
        "firstAvailable": [
            {"name": "large", "capacity": {"requests": {"memory": "20Gi"}}},
            {"name": "small", "count": 2, "capacity": {"requests": {"memory": "5Gi"}}},
        ],
    }
    demand = _demand(claim(exactly("a"), several), find=find_class())
    assert [[request.name for request in alternatives] for alternatives in demand.choices] == [
        ["a"],
        ["b/large", "b/small"],
    ]
    assert demand.choices[1][1].count == 2


def test_claims_come_one_after_the_other(claim: Any, exactly: Any, find_class: Any) -> None:
    demand = _demand(claim(exactly(), name="y"), claim(exactly(), name="x"), find=find_class())
    assert [request.claim for (request,) in demand.choices] == ["uid-y", "uid-x"]


def test_config_is_for_the_requests_that_it_names(claim: Any, exactly: Any, find_class: Any, opaque: Any) -> None:
    sub = {"name": "c", "firstAvailable": [{"name": "x"}, {"name": "y"}]}
    config = [
        opaque({"memory": "1Gi"}),
        opaque({"memory": "2Gi"}, requests=["b", "c"]),
        opaque({"memory": "3Gi"}, requests=["c/y"]),
        opaque({"nonsense": 1}, driver="nic.example"),
    ]
    demand = _demand(claim(exactly("a"), exactly("b"), sub, config=config), find=find_class())
    memory = {
        request.name: request.amounts_on(_gpu()).memory_bytes // GIB
        for alternatives in demand.choices
        for request in alternatives
    }
    assert memory == {"a": 1, "b": 2, "c/x": 2, "c/y": 3}


def test_class_config_is_a_default(claim: Any, exactly: Any, find_class: Any, device_class: Any, opaque: Any) -> None:
    find = find_class(device_class(opaque({"memory": "4Gi", "cores": 20, "placement": {"gpu": "Binpack"}})))
    default = _one(claim(exactly()), find)
    assert (default.amounts_on(_gpu()).memory_bytes, default.gpu_policy) == (4 * GIB, "Binpack")
    said = _one(claim(exactly(memory="8Gi"), config=[opaque({"placement": {"gpu": "Spread"}})]), find)
    assert (said.amounts_on(_gpu()).memory_bytes, said.gpu_policy) == (8 * GIB, "Spread")


@pytest.mark.parametrize(
    ("said", "policy"),
    [
        # (class, claim) of two claims in order: what a claim says counts more, then what is said first.
        ([(None, None), (None, None)], "Binpack"),
        ([("Spread", None), (None, None)], "Spread"),
        ([(None, None), ("Spread", None)], "Spread"),
        ([("Spread", None), ("Binpack", None)], "Spread"),
        ([("Spread", None), (None, "Binpack")], "Binpack"),
        ([(None, "Binpack"), (None, "Spread")], "Binpack"),
        ([("Binpack", "Spread"), (None, "Binpack")], "Spread"),
    ],
)
def test_node_policy_of_several_claims(
    claim: Any, exactly: Any, find_class: Any, device_class: Any, opaque: Any, said: Any, policy: str
) -> None:
    classes, claims = [], []
    for at, (of_class, of_claim) in enumerate(said):
        classes.append(device_class(*([opaque({"placement": {"node": of_class}})] if of_class else []), name=f"k{at}"))
        config = [opaque({"placement": {"node": of_claim}})] if of_claim else []
        claims.append(claim(exactly(deviceClassName=f"k{at}"), name=f"c{at}", config=config))
    assert _demand(*claims, find=find_class(*classes)).node_policy == policy


def test_constraints_of_claims(claim: Any, exactly: Any, find_class: Any) -> None:
    constraints = [
        {"matchAttribute": "gpu.fracgpu.dev/productName"},
        {"requests": ["a"], "matchAttribute": "resource.kubernetes.io/pcieRoot"},
        {"distinctAttribute": "gpu.fracgpu.dev/uuid", "requests": ["a", "b"]},
    ]
    demand = _demand(claim(exactly("a"), exactly("b"), constraints=constraints), find=find_class())
    assert demand.constraints == (
        Constraint(claim="uid-c", attribute="productName"),
        Constraint(claim="uid-c", attribute="resource.kubernetes.io/pcieRoot", requests=("a",)),
        Constraint(claim="uid-c", attribute="uuid", kind="distinct", requests=("a", "b")),
    )


def _numa(*requests: str) -> Constraint:
    return Constraint(
        claim="uid-c", attribute="numaNode", requests=requests, unknown=(-1,), code=ReasonCode.NUMA_NOT_FIT
    )


@pytest.mark.parametrize(
    ("requests", "config_requests", "constraints"),
    [
        ({"a": 2}, None, (_numa("a"),)),
        # One GPU is near itself, even where nobody knows where it is.
        ({"a": 1}, None, ()),
        ({"a": 1, "b": 1}, None, (_numa("a", "b"),)),
        ({"a": 1, "b": 2, "c": 1}, ["a", "b"], (_numa("a", "b"),)),
        ({"a": 1, "b": 2}, ["a"], ()),
    ],
)
def test_topology_binds_all_gpus_that_ask_for_it(
    claim: Any, exactly: Any, find_class: Any, opaque: Any, requests: Any, config_requests: Any, constraints: Any
) -> None:
    entry = opaque({"placement": {"topology": "Numa"}}, **({"requests": config_requests} if config_requests else {}))
    asked = claim(*(exactly(name, count=count) for name, count in requests.items()), config=[entry])
    assert _demand(asked, find=find_class()).constraints == constraints


def test_topology_of_the_class_and_claim_that_says_none(
    claim: Any, exactly: Any, find_class: Any, device_class: Any, opaque: Any
) -> None:
    find = find_class(device_class(opaque({"placement": {"topology": "PcieRoot"}})))
    root = Constraint(
        claim="uid-c",
        attribute="resource.kubernetes.io/pcieRoot",
        requests=("gpu",),
        code=ReasonCode.PCIE_ROOT_NOT_FIT,
    )
    assert _demand(claim(exactly(allocationMode="All")), find=find).constraints == (root,)
    none = [opaque({"placement": {"topology": "None"}})]
    assert _demand(claim(exactly(count=2), config=none), find=find).constraints == ()


@pytest.mark.parametrize(
    ("fields", "code", "words"),
    [
        ({"deviceClassName": "gone"}, "ClassNotFound", "device class gone does not exist"),
        ({"deviceClassName": "nic"}, "ConfigInvalid", "device class nic is of another driver"),
        ({"allocationMode": "Some"}, "ConfigInvalid", "allocationMode 'Some'"),
        ({"count": 0}, "ConfigInvalid", "count 0"),
        ({"count": 33}, "ConfigInvalid", "ask for 1 to 32"),
        ({"count": True}, "ConfigInvalid", "count True"),
        ({"memory": "0"}, "AmountsZero", "memory is 0"),
        ({"memory": "8Q"}, "AmountsInvalid", "memory '8Q'"),
        ({"cores": "101"}, "AmountsExceedDevice", "cores 101"),
        ({"capacity": {"requests": {"gpu.fracgpu.dev/memory": "1Gi"}}}, "AmountsInvalid", "without a prefix"),
        ({"capacity": {"requests": "8Gi"}}, "ConfigInvalid", "capacity.requests"),
        ({"selectors": [{"other": {}}]}, "SelectorNotSupported", "no CEL"),
        ({"selectors": [{"cel": {"expression": "device.driver =="}}]}, "SelectorNotSupported", "device.driver =="),
        ({"tolerations": [{"key": "k", "operator": "Gt"}]}, "ConfigInvalid", "toleration"),
    ],
)
def test_request_that_is_refused(
    claim: Any, exactly: Any, find_class: Any, device_class: Any, fields: Any, code: str, words: str
) -> None:
    error = _refusal(claim(exactly(**fields)), find=find_class(device_class(), NIC))
    assert error.code == code  # type: ignore[attr-defined]
    assert words in str(error)
    assert error.subject == "claim team/c request gpu"


@pytest.mark.parametrize(
    ("config", "code", "words"),
    [
        ({"memory": "lots"}, "ConfigInvalid", "field memory"),
        ({"strict": True}, "ConfigInvalid", "may only be set by a class"),
        ({"memory": "9Gi"}, "AmountsDisagree", "memory is 8Gi in capacity.requests"),
        ({"colour": "red"}, "ConfigInvalid", "colour"),
    ],
)
def test_config_that_is_refused(
    claim: Any, exactly: Any, find_class: Any, opaque: Any, config: Any, code: str, words: str
) -> None:
    error = _refusal(claim(exactly(memory="8Gi"), config=[opaque(config)]), find=find_class())
    assert (error.code, words in str(error)) == (code, True)  # type: ignore[attr-defined]
    assert error.subject == "claim team/c request gpu"


def test_grant_in_a_claim_or_class_is_refused(
    claim: Any, exactly: Any, find_class: Any, device_class: Any, opaque: Any
) -> None:
    grant = opaque({"results": []}, kind="FractionGrant")
    assert "kind" in str(_refusal(claim(exactly(), config=[grant]), find=find_class()))
    assert "kind" in str(_refusal(claim(exactly()), find=find_class(device_class(grant))))


def _part(name: str = "x") -> Any:
    return {"name": name}


@pytest.mark.parametrize(
    "request_",
    [
        {"name": "gpu"},
        {"exactly": {}},
        {"name": "gpu", "exactly": {"count": 1}, "firstAvailable": [_part()]},
        {"name": "gpu", "exactly": "x"},
        {"name": "gpu", "firstAvailable": "x"},
        {"name": "gpu", "firstAvailable": ["x"]},
        {"name": "gpu", "firstAvailable": [{}]},
        {"name": "gpu", "firstAvailable": [_part(), _part()]},
        {"name": "gpu", "firstAvailable": [_part(f"n{at}") for at in range(9)]},
        {"name": "a/b", "exactly": {"count": 1}},
    ],
)
def test_form_that_is_refused(find_class: Any, request_: Any) -> None:
    claim = {"metadata": {"name": "c", "namespace": "team"}, "spec": {"devices": {"requests": [request_]}}}
    error = _refusal(claim, find=find_class())
    assert (error.code, error.subject) == ("ConfigInvalid", "claim team/c")  # type: ignore[attr-defined]


def test_bounds_of_a_claim(claim: Any, exactly: Any, find_class: Any, device_class: Any, opaque: Any) -> None:
    def many(*counts: int) -> Any:
        return claim(*(exactly(f"r{at}", count=count) for at, count in enumerate(counts)))

    assert len(_demand(many(16, 16), find=find_class()).choices) == 2
    assert "asks for 33 GPUs" in str(_refusal(many(16, 16, 1), find=find_class()))
    assert "at most 32" in str(_refusal(many(*[1] * 33), find=find_class()))
    # Of alternatives the smallest may be the one.
    several = {"name": "b", "firstAvailable": [{"name": "x", "count": 32}, {"name": "y"}]}
    assert _demand(claim(exactly("a", count=31), several), find=find_class()).choices
    assert "two requests have one name" in str(_refusal(claim(exactly(), exactly()), find=find_class()))
    full = device_class(*[opaque({}, driver="nic.example")] * 32)
    entries = [opaque({})] * 32
    assert "65 configuration entries" in str(_refusal(claim(exactly(), config=entries), find=find_class(full)))
    assert _one(claim(exactly(), config=entries[1:]), find_class(full))


@pytest.mark.parametrize(
    "constraint",
    [{}, {"matchAttribute": "uuid"}, {"matchAttribute": 1}, {"matchAttribute": "a/b", "requests": "x"}, "junk"],
)
def test_constraint_that_says_nothing_is_refused(claim: Any, exactly: Any, find_class: Any, constraint: Any) -> None:
    error = _refusal(claim(exactly(), constraints=[constraint]), find=find_class())
    assert error.code == "ConfigInvalid"  # type: ignore[attr-defined]


def test_where_capacity_is_not_kept_memory_has_to_be_configured(
    claim: Any, exactly: Any, find_class: Any, opaque: Any
) -> None:
    error = _refusal(claim(exactly()), find=find_class(), keeps_capacity=False)
    assert error.code == "AmountsDropped"  # type: ignore[attr-defined]
    request = _one(claim(exactly(), config=[opaque({"memoryPercent": 50})]), find_class(), keeps_capacity=False)
    assert request.amounts_on(_gpu(40)).memory_bytes == 20 * GIB


def test_what_depends_on_the_card_is_left_to_the_card(claim: Any, exactly: Any, find_class: Any, opaque: Any) -> None:
    request = _one(claim(exactly(memory="20Gi"), config=[opaque({"memoryPercent": 50})]), find_class())
    assert request.amounts_on(_gpu(40)).memory_bytes == 20 * GIB
    with pytest.raises(FracgpuError, match="memory is 20Gi"):
        request.amounts_on(_gpu(80))
    zero = claim(exactly(memory="0"), config=[opaque({"memory": "Whole"})])
    assert _refusal(zero, find=find_class()).code == "AmountsZero"  # type: ignore[attr-defined]


class TestWhereKubeSchedulerAllocates:
    """The demand then counts as kube-scheduler does."""

    def test_class_amounts_are_no_defaults(
        self, claim: Any, exactly: Any, find_class: Any, device_class: Any, opaque: Any
    ) -> None:
        find = find_class(device_class(opaque({"memory": "4Gi", "cores": 20})))
        amounts = _one(claim(exactly()), find, allocator="scheduler").amounts_on(_gpu())
        assert (amounts.memory_bytes, amounts.cores) == (40 * GIB, 0)

    @pytest.mark.parametrize(
        ("config", "code"),
        [
            ({"memoryPercent": 50}, "MemoryPercentNotSupported"),
            ({"memory": "4Gi"}, "AmountsDisagree"),
            ({"cores": 20}, "AmountsDisagree"),
        ],
    )
    def test_amounts_that_only_the_claim_states_are_refused(
        self, claim: Any, exactly: Any, find_class: Any, opaque: Any, config: Any, code: str
    ) -> None:
        asked = claim(exactly(), config=[opaque(config)])
        assert _refusal(asked, find=find_class(), allocator="scheduler").code == code  # type: ignore[attr-defined]

    def test_what_comes_to_the_same_is_accepted(self, claim: Any, exactly: Any, find_class: Any, opaque: Any) -> None:
        for asked in (
            claim(exactly(), config=[opaque({"memory": "Whole", "cores": 0})]),
            claim(exactly(memory="40Gi", cores="0"), config=[opaque({"memory": "40Gi", "cores": 0})]),
        ):
            assert _one(asked, find_class(), allocator="scheduler").amounts_on(_gpu()).memory_bytes == 40 * GIB

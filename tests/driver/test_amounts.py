"""The table of amounts, one test per cell."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fracgpu.driver.amounts import Amounts, granted_amounts, requested_amounts
from fracgpu.driver.codes import ReasonCode
from fracgpu.driver.config import FractionConfig
from fracgpu.driver.errors import (
    AmountsDisagree,
    AmountsDropped,
    AmountsError,
    AmountsExceedDevice,
    AmountsInvalid,
    AmountsZero,
    MemoryPercentNotSupported,
)
from fracgpu.driver.grant import GrantResult
from fracgpu.driver.quantity import MIB

PHYSICAL = 10240 * MIB
SUBJECT = "claim ns/a request gpu"
CONSUMED = {"memory": "3000Mi", "cores": "30", "slots": "1"}
ZERO = {"memory": "0", "cores": "0", "slots": "0"}
ADMIN = Amounts(memory_bytes=0, cores=0, slots=0, limited=False)


def config(**fields: Any) -> FractionConfig:
    return FractionConfig(**fields)


def grant(memory_mib: int = 3000, cores: int = 30, slots: int = 1) -> GrantResult:
    return GrantResult(
        request="gpu", pool="n1", device="gpu-1", ordinal=0, memory_bytes=memory_mib * MIB, cores=cores, slots=slots
    )


def amounts(memory_mib: int, cores: int = 0, *, limited: bool = True) -> Amounts:
    return Amounts(memory_bytes=memory_mib * MIB, cores=cores, slots=1, limited=limited)


def ask(**arguments: Any) -> Amounts:
    return requested_amounts(**{"subject": SUBJECT, "physical_memory_bytes": PHYSICAL, **arguments})


def prepare(**arguments: Any) -> Amounts:
    return granted_amounts(**{"subject": SUBJECT, "physical_memory_bytes": PHYSICAL, **arguments})


class TestRequestedWhereTheApiKeepsCapacity:
    @pytest.mark.parametrize(
        ("arguments", "expected"),
        [
            ({}, amounts(10240)),
            ({"requests": {"memory": "3000Mi", "cores": "30"}}, amounts(3000, 30)),
            ({"requests": {"memory": 3000 * MIB, "slots": 1}}, amounts(3000)),
            ({"requests": {"memory": "1000M"}}, amounts(954)),
            ({"requests": {"memory": "1"}}, amounts(1)),
            ({"claim_config": config(memory="3000Mi", cores=30)}, amounts(3000, 30)),
            ({"class_config": config(memory="3000Mi", cores=30)}, amounts(3000, 30)),
            (
                {"requests": {"memory": "1Gi"}, "class_config": config(memory="3000Mi", cores=30)},
                amounts(1024, 30),
            ),
            (
                {"claim_config": config(memory="1Gi"), "class_config": config(memory="3000Mi", cores=30)},
                amounts(1024, 30),
            ),
            (
                {"requests": {"cores": "40"}, "claim_config": config(memory="1Gi")},
                amounts(1024, 40),
            ),
            (
                {"requests": {"memory": "1Gi", "cores": "5"}, "claim_config": config(memory="1024Mi", cores=5)},
                amounts(1024, 5),
            ),
            ({"requests": {"memory": "1000M"}, "claim_config": config(memory="1000000k")}, amounts(954)),
            ({"claim_config": config(memory_percent=20)}, amounts(2048)),
            ({"claim_config": config(memory_percent=30)}, amounts(3072)),
            ({"claim_config": config(memory_percent=100)}, amounts(10240)),
            ({"class_config": config(memory_percent=30)}, amounts(3072)),
            ({"requests": {"memory": "2Gi"}, "claim_config": config(memory_percent=20)}, amounts(2048)),
            ({"claim_config": config(memory="Whole")}, amounts(10240)),
            ({"requests": {"cores": "0"}, "class_config": config(cores=30)}, amounts(10240)),
        ],
        ids=[
            *("default-is-the-whole-card", "requests", "integers", "rounded-up-to-mib", "one-byte-is-one-mib"),
            *("claim-config", "class-config", "requests-over-class", "claim-over-class", "requests-and-claim-mix"),
            *("both-alike", "both-alike-after-rounding", "20-percent", "30-percent", "100-percent", "class-percent"),
            *("percent-alike", "claim-whole-is-limited", "zero-cores-over-class"),
        ],
    )
    def test_amounts(self, arguments: dict[str, Any], expected: Amounts) -> None:
        assert ask(keeps_capacity=True, **arguments) == expected

    @pytest.mark.parametrize(
        ("requests", "claim_config", "what"),
        [
            ({"memory": "2Gi"}, config(memory="1Gi"), "memory is 2Gi in capacity.requests but 1Gi in the claim's"),
            ({"memory": "2Gi"}, config(memory_percent=30), "memory is 2Gi in capacity.requests but 3Gi"),
            ({"memory": "2Gi"}, config(memory="Whole"), "but 10Gi in the claim's"),
            ({"cores": "20"}, config(cores=30), "cores is 20 in capacity.requests but 30 in the claim's"),
        ],
        ids=["memory", "percent", "whole", "cores"],
    )
    @pytest.mark.parametrize("keeps", [True, False], ids=["kept", "dropped"])
    def test_a_claim_that_says_both_differently_is_refused(
        self, requests: dict[str, str], claim_config: FractionConfig, what: str, keeps: bool
    ) -> None:
        with pytest.raises(AmountsDisagree) as caught:
            ask(keeps_capacity=keeps, requests=requests, claim_config=claim_config)
        assert what in str(caught.value)
        assert caught.value.code is ReasonCode.AMOUNTS_DISAGREE


class TestRequestedWhereTheApiDropsCapacity:
    @pytest.mark.parametrize(
        ("arguments", "expected"),
        [
            ({"claim_config": config(memory="3000Mi", cores=30)}, amounts(3000, 30)),
            ({"class_config": config(memory="3000Mi")}, amounts(3000)),
            ({"claim_config": config(cores=5), "class_config": config(memory_percent=20, cores=9)}, amounts(2048, 5)),
            ({"claim_config": config(memory="Whole")}, amounts(10240)),
            ({"class_config": config(memory="Whole")}, amounts(10240, limited=False)),
            ({"requests": {"memory": "1Gi", "cores": "7"}, "class_config": config(memory="3000Mi")}, amounts(3000)),
        ],
        ids=["claim", "class", "mixed", "claim-whole", "class-whole", "requests-do-not-count"],
    )
    def test_amounts_come_from_configuration(self, arguments: dict[str, Any], expected: Amounts) -> None:
        assert ask(keeps_capacity=False, **arguments) == expected

    @pytest.mark.parametrize(
        "arguments",
        [{}, {"claim_config": config(cores=30)}, {"requests": {"memory": "8Gi"}}],
        ids=["nothing", "cores-only", "only-in-the-field-that-is-dropped"],
    )
    def test_no_memory_is_never_unlimited(self, arguments: dict[str, Any]) -> None:
        with pytest.raises(AmountsDropped, match="Whole") as caught:
            ask(keeps_capacity=False, **arguments)
        assert caught.value.code is ReasonCode.AMOUNTS_DROPPED


class TestRequestedIsRefused:
    @pytest.mark.parametrize(
        ("arguments", "error", "what"),
        [
            ({"requests": {"memory": "0"}}, AmountsZero, "memory is 0 without admin access"),
            ({"claim_config": config(memory="0")}, AmountsZero, "memory is 0"),
            ({"claim_config": config(memory_percent=1), "physical_memory_bytes": 50 * MIB}, AmountsZero, "memory is 0"),
            ({"requests": {"slots": "0"}}, AmountsZero, "slots is 0"),
            ({"requests": {"memory": "10241Mi"}}, AmountsExceedDevice, "memory 10241Mi is more than the GPU's 10Gi"),
            ({"class_config": config(memory="11Gi")}, AmountsExceedDevice, "memory 11Gi"),
            ({"requests": {"cores": "101"}}, AmountsExceedDevice, "cores 101 is more than 100"),
            ({"requests": {"slots": "2"}}, AmountsExceedDevice, "slots 2 is more than 1"),
            ({"requests": {"cores": "1.5"}}, AmountsInvalid, "not a whole number of percent"),
            ({"requests": {"cores": "-1"}}, AmountsInvalid, "negative"),
            ({"requests": {"memory": "8gb"}}, AmountsInvalid, "capacity memory '8gb' is not a quantity"),
            ({"requests": {"gpu.fracgpu.dev/memory": "8Gi"}}, AmountsInvalid, "'gpu.fracgpu.dev/memory' is unknown"),
            ({"requests": {"vram": "8Gi"}}, AmountsInvalid, "use memory, cores, slots without a prefix"),
        ],
        ids=lambda value: value if isinstance(value, str) else "",
    )
    def test_with_a_typed_error_that_names_the_claim(
        self, arguments: dict[str, Any], error: type[AmountsError], what: str
    ) -> None:
        with pytest.raises(error) as caught:
            ask(keeps_capacity=True, **arguments)
        assert type(caught.value) is error
        assert str(caught.value).startswith(f"{SUBJECT}: ")
        assert what in str(caught.value)

    def test_exactly_one_hundred_cores_are_fine(self) -> None:
        assert ask(keeps_capacity=True, requests={"cores": "100"}).cores == 100


class TestGrantedByScheduler:
    @pytest.mark.parametrize(
        ("arguments", "expected"),
        [
            ({}, amounts(3000, 30)),
            ({"claim_config": config(memory="3000Mi", cores=30)}, amounts(3000, 30)),
            ({"claim_config": config(memory="3145728k")}, amounts(3000, 30)),
            ({"class_config": config(memory="8Gi", cores=90)}, amounts(3000, 30)),
            ({"class_config": config(memory_percent=50)}, amounts(3000, 30)),
            ({"class_config": config(memory="Whole")}, amounts(3000, 30)),
            ({"consumed": {**CONSUMED, "memory": "8Gi"}}, amounts(8192, 30)),
            ({"consumed": {**CONSUMED, "future": "7"}}, amounts(3000, 30)),
            ({"grant": grant()}, amounts(3000, 30)),
        ],
        ids=[
            *("consumed", "claim-alike", "claim-alike-after-rounding", "class-amounts-not-compared"),
            *(
                "class-percent-not-compared",
                "less-than-whole-is-limited",
                "canonical",
                "unknown-capacity",
                "grant-alike",
            ),
        ],
    )
    def test_consumed_capacity_is_enforced(self, arguments: dict[str, Any], expected: Amounts) -> None:
        assert prepare(**{"allocator": "scheduler", "consumed": CONSUMED, **arguments}) == expected

    @pytest.mark.parametrize(
        ("arguments", "error", "what"),
        [
            ({"claim_config": config(memory="8Gi")}, AmountsDisagree, "3000Mi in consumedCapacity but 8Gi"),
            ({"claim_config": config(memory="Whole")}, AmountsDisagree, "but 10Gi in the claim's"),
            ({"claim_config": config(cores=50)}, AmountsDisagree, "cores is 30 in consumedCapacity but 50"),
            ({"claim_config": config(memory_percent=20)}, MemoryPercentNotSupported, "memoryPercent 20"),
            ({"grant": grant(memory_mib=4000)}, AmountsDisagree, "but 4000Mi in the FractionGrant"),
            ({"consumed": {"cores": "30", "slots": "1"}}, AmountsDropped, "lacks memory"),
            ({"consumed": {"memory": "1Gi"}}, AmountsDropped, "lacks cores, slots"),
            ({"consumed": {**CONSUMED, "memory": "11Gi"}}, AmountsExceedDevice, "memory 11Gi"),
            ({"consumed": {**CONSUMED, "cores": "101"}}, AmountsExceedDevice, "cores 101"),
            ({"consumed": {**CONSUMED, "memory": "0"}}, AmountsZero, "memory is 0"),
            ({"consumed": {**CONSUMED, "slots": "0"}}, AmountsZero, "slots is 0"),
            ({"consumed": {**CONSUMED, "cores": "0.5"}}, AmountsInvalid, "not a whole number"),
        ],
        ids=[
            *(
                "memory-differs",
                "whole-differs",
                "cores-differ",
                "percent",
                "grant-differs",
                "no-memory",
                "only-memory",
            ),
            *("more-than-physical", "101-cores", "zero-memory", "zero-slots", "half-a-core"),
        ],
    )
    def test_refused(self, arguments: dict[str, Any], error: type[AmountsError], what: str) -> None:
        with pytest.raises(error) as caught:
            prepare(**{"allocator": "scheduler", "consumed": CONSUMED, **arguments})
        assert type(caught.value) is error
        assert what in str(caught.value)

    @pytest.mark.parametrize("consumed", [None, {}], ids=["absent", "empty"])
    @pytest.mark.parametrize(
        "arguments",
        [
            {},
            {"claim_config": config(memory="3000Mi", cores=30)},
            {"class_config": config(memory="Whole", enforcement="None")},
            {"grant": grant()},
            {"admin_access": True},
        ],
        ids=["plain", "claim-config", "no-enforcement", "grant", "admin"],
    )
    def test_dropped_capacity_is_always_refused(self, consumed: Any, arguments: dict[str, Any]) -> None:
        with pytest.raises(AmountsDropped) as caught:
            prepare(allocator="scheduler", consumed=consumed, **arguments)
        assert caught.value.code is ReasonCode.AMOUNTS_DROPPED


class TestGrantedByController:
    @pytest.mark.parametrize("consumed", [CONSUMED, None, {}], ids=["kept", "dropped", "dropped-as-empty"])
    @pytest.mark.parametrize(
        "configs",
        [
            {},
            {"claim_config": config(memory_percent=30)},
            {"class_config": config(memory="1Gi", cores=1)},
        ],
        ids=["no-config", "percent-was-resolved-at-allocation", "class"],
    )
    def test_the_grant_is_enforced(self, consumed: Any, configs: dict[str, Any]) -> None:
        assert prepare(allocator="controller", consumed=consumed, grant=grant(), **configs) == amounts(3000, 30)

    @pytest.mark.parametrize(
        ("given", "what"),
        [
            (grant(memory_mib=3001), "memory is 3000Mi in consumedCapacity but 3001Mi in the FractionGrant"),
            (grant(cores=31), "cores is 30 in consumedCapacity but 31"),
            (grant(slots=0), "slots is 1 in consumedCapacity but 0"),
        ],
        ids=["memory", "cores", "slots"],
    )
    @pytest.mark.parametrize("admin", [False, True], ids=["user", "admin"])
    def test_consumed_capacity_and_grant_must_agree(self, given: GrantResult, what: str, admin: bool) -> None:
        with pytest.raises(AmountsDisagree) as caught:
            prepare(allocator="controller", consumed=CONSUMED, grant=given, admin_access=admin)
        assert what in str(caught.value)

    @pytest.mark.parametrize("consumed", [CONSUMED, None], ids=["kept", "dropped"])
    @pytest.mark.parametrize("admin", [False, True], ids=["user", "admin"])
    def test_a_missing_grant_is_refused(self, consumed: Any, admin: bool) -> None:
        with pytest.raises(AmountsDropped, match="no FractionGrant"):
            prepare(allocator="controller", consumed=consumed, admin_access=admin, claim_config=config(memory="3000Mi"))

    @pytest.mark.parametrize(
        ("given", "error"),
        [
            (grant(memory_mib=0), AmountsZero),
            (grant(slots=0), AmountsZero),
            (grant(memory_mib=10241), AmountsExceedDevice),
            (grant(cores=101), AmountsExceedDevice),
            (grant(slots=2), AmountsExceedDevice),
        ],
        ids=["zero-memory", "zero-slots", "more-than-physical", "101-cores", "two-slots"],
    )
    def test_impossible_grants_are_refused(self, given: GrantResult, error: type[AmountsError]) -> None:
        with pytest.raises(error):
            prepare(allocator="controller", grant=given)


class TestNoLimit:
    @pytest.mark.parametrize(
        ("class_config", "consumed", "limited"),
        [
            (config(enforcement="None"), CONSUMED, False),
            (config(enforcement="Interceptor"), CONSUMED, True),
            (config(memory="Whole"), {**CONSUMED, "memory": "10Gi", "cores": "0"}, False),
            (config(memory="Whole"), {**CONSUMED, "memory": "10Gi", "cores": "100"}, False),
            (config(memory="Whole"), {**CONSUMED, "memory": "10Gi", "cores": "50"}, True),
            (config(memory="Whole"), CONSUMED, True),
            (config(), {**CONSUMED, "memory": "10Gi", "cores": "0"}, True),
        ],
        ids=[
            "enforcement-none",
            "interceptor",
            "whole",
            "whole-100",
            "whole-half-cores",
            "part-of-whole",
            "plain-full",
        ],
    )
    def test_only_the_class_lifts_the_limit(
        self, class_config: FractionConfig, consumed: dict[str, str], limited: bool
    ) -> None:
        got = prepare(allocator="scheduler", consumed=consumed, class_config=class_config)
        assert got.limited is limited
        assert got.memory_bytes > 0
        assert got.slots == 1

    def test_the_allocator_sees_the_same(self) -> None:
        assert ask(keeps_capacity=True, class_config=config(memory="Whole")) == amounts(10240, limited=False)
        assert ask(keeps_capacity=True, requests={"memory": "1Gi"}, class_config=config(memory="Whole")).limited

    @pytest.mark.parametrize("requests", [None, ZERO, {"memory": "8Gi"}], ids=["nothing", "zeros", "an-amount"])
    @pytest.mark.parametrize("keeps", [True, False], ids=["kept", "dropped"])
    def test_admin_access_asks_for_nothing(self, requests: Any, keeps: bool) -> None:
        assert ask(keeps_capacity=keeps, requests=requests, admin_access=True) == ADMIN

    @pytest.mark.parametrize(
        "arguments",
        [
            {"allocator": "scheduler", "consumed": ZERO},
            {"allocator": "scheduler", "consumed": CONSUMED},
            {"allocator": "controller", "consumed": ZERO, "grant": grant(0, 0, 0)},
            {"allocator": "controller", "grant": grant(0, 0, 0)},
        ],
        ids=["scheduler-zeros", "scheduler-defaults", "controller-kept", "controller-dropped"],
    )
    def test_admin_access_is_neither_limited_nor_counted(self, arguments: dict[str, Any]) -> None:
        assert prepare(admin_access=True, **arguments) == ADMIN


MEMORY = st.none() | st.integers(0, 2 * PHYSICAL)
CORES = st.none() | st.integers(0, 120)


@given(MEMORY, CORES, st.none() | st.integers(1, 100), st.integers(1, 20000), st.booleans())
def test_what_is_granted_is_never_more_than_the_card_and_never_nothing(
    memory: int | None, cores: int | None, percent: int | None, physical_mib: int, keeps: bool
) -> None:
    requests = {name: value for name, value in (("memory", memory), ("cores", cores)) if value is not None}
    physical = physical_mib * MIB
    try:
        got = ask(
            keeps_capacity=keeps,
            requests=requests,
            class_config=config(memory_percent=percent),
            physical_memory_bytes=physical,
        )
    except AmountsError:
        return
    assert 0 < got.memory_bytes <= physical
    assert got.memory_bytes % MIB == 0
    assert 0 <= got.cores <= 100
    assert got.slots == 1
    if keeps and memory is not None:
        assert memory <= got.memory_bytes < memory + MIB


@given(st.integers(1, 300000), st.integers(1, 99))
def test_percentages_are_monotone_and_never_exceed_their_share(physical_mib: int, percent: int) -> None:
    physical = physical_mib * MIB

    def memory(share: int) -> int:
        try:
            return ask(
                keeps_capacity=True, claim_config=config(memory_percent=share), physical_memory_bytes=physical
            ).memory_bytes
        except AmountsZero:
            return 0

    assert memory(percent) <= memory(percent + 1)
    assert memory(percent) * 100 <= physical * percent < (memory(percent) + MIB) * 100
    assert memory(100) == physical


@given(st.integers(1, 10240), st.integers(0, 100), st.booleans())
def test_what_the_controller_writes_is_what_prepare_enforces(memory_mib: int, cores: int, keeps: bool) -> None:
    asked = ask(keeps_capacity=keeps, claim_config=config(memory=f"{memory_mib}Mi", cores=cores))
    written = grant(asked.memory_bytes // MIB, asked.cores, asked.slots)
    consumed = asked.to_capacities() if keeps else None
    assert prepare(allocator="controller", consumed=consumed, grant=written) == asked

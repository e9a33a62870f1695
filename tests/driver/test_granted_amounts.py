"""The table of amounts, one test per cell: what Prepare enforces."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fracgpu.driver.amounts import Amounts
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
from tests.driver.amounts_calls import ADMIN, CONSUMED, ZERO, amounts, ask, config, grant, prepare


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


@given(st.integers(1, 10240), st.integers(0, 100), st.booleans())
def test_what_the_controller_writes_is_what_prepare_enforces(memory_mib: int, cores: int, keeps: bool) -> None:
    asked = ask(keeps_capacity=keeps, claim_config=config(memory=f"{memory_mib}Mi", cores=cores))
    written = grant(asked.memory_bytes // MIB, asked.cores, asked.slots)
    consumed = asked.to_capacities() if keeps else None
    assert prepare(allocator="controller", consumed=consumed, grant=written) == asked

"""The table of amounts, one test per cell: what the allocator asks for."""

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
)
from fracgpu.driver.quantity import MIB
from tests.driver.amounts_calls import ADMIN, PHYSICAL, SUBJECT, ZERO, amounts, ask, config


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


class TestNoLimit:
    def test_the_allocator_sees_the_same(self) -> None:
        assert ask(keeps_capacity=True, class_config=config(memory="Whole")) == amounts(10240, limited=False)
        assert ask(keeps_capacity=True, requests={"memory": "1Gi"}, class_config=config(memory="Whole")).limited

    @pytest.mark.parametrize("requests", [None, ZERO, {"memory": "8Gi"}], ids=["nothing", "zeros", "an-amount"])
    @pytest.mark.parametrize("keeps", [True, False], ids=["kept", "dropped"])
    def test_admin_access_asks_for_nothing(self, requests: Any, keeps: bool) -> None:
        assert ask(keeps_capacity=keeps, requests=requests, admin_access=True) == ADMIN


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

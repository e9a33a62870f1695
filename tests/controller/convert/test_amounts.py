"""What a claim means is what HAMi would have given."""

from typing import Any

import pytest
from hypothesis import given as examples
from hypothesis import strategies as st

from fracgpu.controller.convert.convert import convert
from fracgpu.controller.convert.options import ConvertOptions, ShareDefault
from fracgpu.driver.quantity import MIB
from tests.controller.convert.pods import container, given, pod, refusals, request_of, translated

Json = dict[str, Any]
CARDS = (23034, 40960, 81559)
SCHEDULER = ConvertOptions(allocator="scheduler", card_mib=CARDS)


def hami(limits: Json, card_mib: int) -> tuple[int, int, int]:
    """GPUs, MiB and cores that HAMi's scheduler gives on cards of one size, by its documented rules and defaults."""
    memory, percent = int(limits.get("nvidia.com/gpumem", 0)), int(limits.get("nvidia.com/gpumem-percentage", 100))
    amount = memory or card_mib * percent // 100
    return int(limits.get("nvidia.com/gpu", 1)), amount, min(100, int(limits.get("nvidia.com/gpucores", 0)))


@pytest.mark.parametrize("options", [ConvertOptions(), SCHEDULER], ids=["controller", "scheduler"])
@pytest.mark.parametrize("card_mib", CARDS)
@pytest.mark.parametrize(
    "limits",
    [
        {"nvidia.com/gpu": 1},
        {"nvidia.com/gpu": "1"},
        {"nvidia.com/gpu": 4},
        {"nvidia.com/gpu": 1, "nvidia.com/gpumem": 3000},
        {"nvidia.com/gpu": 2, "nvidia.com/gpumem": "10240", "nvidia.com/gpucores": 50},
        {"nvidia.com/gpu": 1, "nvidia.com/gpumem-percentage": 33},
        {"nvidia.com/gpu": 1, "nvidia.com/gpumem-percentage": 100},
        {"nvidia.com/gpu": 3, "nvidia.com/gpumem-percentage": 1, "nvidia.com/gpucores": 1},
        {"nvidia.com/gpu": 1, "nvidia.com/gpucores": 30},
        {"nvidia.com/gpu": 1, "nvidia.com/gpucores": 100},
        {"nvidia.com/gpu": 1, "nvidia.com/gpucores": 130},
        {"nvidia.com/gpumem": 4096},
        {"nvidia.com/gpucores": 20},
        {"nvidia.com/gpu": 1, "nvidia.com/gpumem": 0, "nvidia.com/gpumem-percentage": 50},
        {"nvidia.com/gpu": 1, "nvidia.com/gpumem": 2000, "nvidia.com/gpumem-percentage": 50},
        {"nvidia.com/gpu": 1, "nvidia.com/gpumem": "4k"},
    ],
    ids=lambda value: ",".join(f"{key.removeprefix('nvidia.com/')}={amount}" for key, amount in value.items()),
)
def test_amounts_are_those_of_hami(limits: Json, card_mib: int, options: ConvertOptions) -> None:
    _, template, _ = translated(pod(container(limits=limits)), options)
    found = given(template, card_mib)
    assert found is not None
    count, amounts = found
    plain = {key: 4000 if value == "4k" else value for key, value in limits.items()}
    assert (count, amounts.memory_bytes // MIB, amounts.cores) == hami(plain, card_mib)
    assert amounts.memory_bytes % MIB == 0


LIMITS = st.fixed_dictionaries(
    {},
    optional={
        "nvidia.com/gpu": st.integers(1, 32),
        "nvidia.com/gpumem": st.integers(0, 20000),
        "nvidia.com/gpumem-percentage": st.integers(1, 100),
        "nvidia.com/gpucores": st.integers(0, 150),
    },
)


@examples(LIMITS, st.sampled_from(CARDS), st.sampled_from([ConvertOptions(), SCHEDULER]))
def test_amounts_are_those_of_hami_whatever_is_said(limits: Json, card_mib: int, options: ConvertOptions) -> None:
    conversion = convert(pod(container(limits=limits)), options)
    if not limits:
        assert conversion.template is None
        return
    assert conversion.template is not None
    found = given(conversion.template, card_mib)
    assert found is not None
    assert (found[0], found[1].memory_bytes // MIB, found[1].cores) == hami(limits, card_mib)


@pytest.mark.parametrize(
    ("share", "memory", "cores"),
    [
        (ShareDefault(memory_mib=8192), 8192, 0),
        (ShareDefault(memory_percent=25, cores=30), 10240, 30),
    ],
)
@pytest.mark.parametrize("resource", ["nvidia.com/gpu", "nvidia.com/gpu.shared"])
def test_a_default_share_stands_for_what_is_not_said(
    resource: str, share: ShareDefault, memory: int, cores: int
) -> None:
    options = ConvertOptions(share_default=share)
    _, template, _ = translated(pod(container(limits={resource: 1})), options)
    assert request_of(template)["exactly"]["deviceClassName"] == "gpu.fracgpu.dev"
    found = given(template, 40960)
    assert found is not None
    assert (found[1].memory_bytes // MIB, found[1].cores) == (memory, cores)


def test_what_is_said_counts_before_the_default_share() -> None:
    options = ConvertOptions(share_default=ShareDefault(memory_mib=8192, cores=30))
    _, template, _ = translated(pod(container(limits={"nvidia.com/gpu": 1, "nvidia.com/gpumem": 100})), options)
    found = given(template, 40960)
    assert found is not None
    assert (found[1].memory_bytes // MIB, found[1].cores) == (100, 30)


def test_a_gpu_without_amounts_is_a_whole_one() -> None:
    _, template, _ = translated(pod(container(limits={"nvidia.com/gpu": 1})))
    assert request_of(template) == {"name": "gpu", "exactly": {"deviceClassName": "whole.gpu.fracgpu.dev"}}
    found = given(template, 40960)
    assert found is not None
    assert not found[1].limited


@pytest.mark.parametrize("prefix", ["nvidia.com/vgpu-", "volcano.sh/vgpu-"])
def test_other_sharers_words_mean_the_same(prefix: str) -> None:
    limits = {f"{prefix}number": 2, f"{prefix}memory": 1024, f"{prefix}cores": 10}
    _, template, _ = translated(pod(container(limits=limits)))
    found = given(template, 40960)
    assert found is not None
    assert (found[0], found[1].memory_bytes // MIB, found[1].cores) == (2, 1024, 10)


def test_a_percentage_takes_no_card_of_a_size_that_was_not_named() -> None:
    options = ConvertOptions(allocator="scheduler", card_mib=(23034,))
    limits = {"nvidia.com/gpu": 1, "nvidia.com/gpumem-percentage": 50, "nvidia.com/gpucores": 10}
    _, template, _ = translated(pod(container(limits=limits)), options)
    assert given(template, 40960) is None
    assert request_of(template) == {
        "name": "gpu",
        "firstAvailable": [
            {
                "name": "m23034",
                "deviceClassName": "gpu.fracgpu.dev",
                "selectors": [
                    {
                        "cel": {
                            "expression": "device.attributes['gpu.fracgpu.dev'].?physicalMemoryMiB.orValue(0) == 23034"
                        }
                    }
                ],
                "capacity": {"requests": {"memory": "11517Mi", "cores": "10"}},
            }
        ],
    }


PERCENT = {"nvidia.com/gpu": 1, "nvidia.com/gpumem-percentage": 50}


@pytest.mark.parametrize(
    ("limits", "options", "part"),
    [
        ({"nvidia.com/gpu": "one"}, ConvertOptions(), "'one' is not a quantity"),
        ({"nvidia.com/gpu": -1}, ConvertOptions(), "is negative"),
        ({"nvidia.com/gpu": 0.5}, ConvertOptions(), "nvidia.com/gpu 0.5 is not whole; write a whole number"),
        ({"nvidia.com/gpu": True}, ConvertOptions(), "is not a quantity"),
        ({"nvidia.com/gpu": None}, ConvertOptions(), "is not a quantity"),
        ({"nvidia.com/gpu": 33}, ConvertOptions(), "more than 32"),
        ({"nvidia.com/gpumem": "8Gi"}, ConvertOptions(), "it is in MiB: 8192, not 8Gi"),
        ({"nvidia.com/gpumem-percentage": 101}, ConvertOptions(), "more than 100"),
        ({"nvidia.com/gpumem-percentage": 0}, ConvertOptions(), "without memory"),
        ({"nvidia.com/mig-1g.5gb": 1}, ConvertOptions(), "nvidia.com/mig-1g.5gb is a MIG device"),
        ({"nvidia.com/gpu": 1, "nvidia.com/vgpu-number": 1}, ConvertOptions(), "HAMi and vgpu-manager at once"),
        ({"nvidia.com/gpu.shared": 1}, ConvertOptions(), "give --share-default"),
        (PERCENT, ConvertOptions(allocator="scheduler"), "give --cards"),
        (PERCENT, ConvertOptions(allocator="scheduler", card_mib=tuple(range(100, 109))), "9 sizes of cards"),
        (PERCENT, ConvertOptions(allocator="scheduler", card_mib=(1,)), "less than 1 MiB of every card"),
    ],
)
def test_what_no_claim_can_be_is_refused(limits: Json, options: ConvertOptions, part: str) -> None:
    found = refusals(pod(container(limits=limits)), options)
    assert len(found) == 1
    assert part in found[0]

from collections.abc import Callable
from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fracgpu.driver.errors import ConfigInvalid
from fracgpu.driver.gpu import Gpu, parse_scale, scaled_cores
from fracgpu.driver.quantity import MIB


def test_physical_memory_is_rounded_down_to_mib(make_gpu: Callable[..., Gpu]) -> None:
    gpu = make_gpu(memory_total_bytes=100 * MIB + MIB - 1)
    assert gpu.physical_memory_bytes == 100 * MIB


def test_device_name_follows_the_uuid_not_the_index(make_gpu: Callable[..., Gpu]) -> None:
    assert make_gpu(index=0).device_name == make_gpu(index=5).device_name == "gpu-8f2c1a00"


@pytest.mark.parametrize(
    ("scale", "mib"),
    [(1, 1001), (1.0, 1001), (1.1, 1101), (Decimal("1.5"), 1501), (2, 2002)],
    ids=str,
)
def test_scaled_memory_is_exact_and_in_mib(make_gpu: Callable[..., Gpu], scale: float, mib: int) -> None:
    assert make_gpu(memory_total_bytes=1001 * MIB).scaled_memory_bytes(scale) == mib * MIB


@pytest.mark.parametrize("scale", [0.99, 0, -1, float("nan"), float("inf"), "x", True], ids=repr)
def test_scales_below_one_are_refused(make_gpu: Callable[..., Gpu], scale: float) -> None:
    with pytest.raises(ConfigInvalid, match="memory scale"):
        make_gpu().scaled_memory_bytes(scale)
    with pytest.raises(ConfigInvalid, match="cores scale"):
        scaled_cores(scale)


@pytest.mark.parametrize("scale", [1000.5, "1e30", "1e999999"])
def test_scales_that_no_capacity_can_hold_are_refused(make_gpu: Callable[..., Gpu], scale: float) -> None:
    with pytest.raises(ConfigInvalid, match=r"memory scale: .* is more than 1000"):
        make_gpu().scaled_memory_bytes(scale)
    with pytest.raises(ConfigInvalid, match=r"cores scale: .* is more than 1000"):
        scaled_cores(scale)


@pytest.mark.parametrize(("scale", "cores"), [(1, 100), (1.5, 150), ("1.25", 125), (Decimal(3), 300)], ids=str)
def test_scaled_cores(scale: float, cores: int) -> None:
    assert scaled_cores(scale) == cores


def test_scaled_cores_must_be_whole() -> None:
    with pytest.raises(ConfigInvalid, match=r"100 x 1\.005 is not whole"):
        scaled_cores("1.005")


@given(st.decimals(1, 100, places=2))
def test_scale_is_taken_as_written(scale: Decimal) -> None:
    assert parse_scale(float(scale), name="scale") == scale

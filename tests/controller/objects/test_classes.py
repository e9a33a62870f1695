"""Which claims are for our driver."""

from __future__ import annotations

from typing import Any

import pytest

from fracgpu.controller.objects.classes import class_names_of, is_our_class, is_ours

OTHER = {
    "metadata": {"name": "nic"},
    "spec": {"selectors": [{"cel": {"expression": "device.driver == 'nic.example'"}}]},
}


@pytest.mark.parametrize(
    ("expression", "ours"),
    [
        ("device.driver == 'gpu.fracgpu.dev'", True),
        ('device.driver == "gpu.fracgpu.dev"', True),
        ("device.attributes['gpu.fracgpu.dev'].productName == 'NVIDIA L40S'", True),
        ("device.driver == 'other.gpu.fracgpu.dev'", False),
        ("device.driver == 'gpu.fracgpu.dev.example.com'", False),
        ("device.driver != 'gpu.fracgpu.dev'", False),
        ("device.driver != 'x' && device.driver == 'gpu.fracgpu.dev'", True),
        ("true", False),
    ],
)
def test_class_is_ours_if_it_names_us(device_class: Any, expression: str, ours: bool) -> None:
    assert is_our_class(device_class(expression=expression)) is ours


def test_class_is_ours_if_it_configures_us(device_class: Any, opaque: Any) -> None:
    assert is_our_class(device_class(opaque({}), expression="true"))
    assert not is_our_class(device_class(opaque({}, driver="nic.example"), expression="true"))


def test_claim_is_ours_by_any_of_its_classes(claim: Any, exactly: Any, find_class: Any, device_class: Any) -> None:
    find = find_class(device_class(), OTHER)
    assert is_ours(claim(exactly()), find)
    assert not is_ours(claim(exactly(deviceClassName="nic")), find)
    assert is_ours(claim(exactly("a", deviceClassName="nic"), exactly("b")), find)
    several = {"name": "gpu", "firstAvailable": [{"name": "a", "deviceClassName": "nic"}, {"name": "b"}]}
    assert is_ours(claim(several), find)
    assert class_names_of(claim(several)) == ["nic", "gpu.fracgpu.dev"]


def test_claim_of_a_missing_class_is_ours_and_an_empty_one_is_not(claim: Any, exactly: Any, find_class: Any) -> None:
    assert is_ours(claim(exactly(deviceClassName="missing")), find_class())
    assert not is_ours({}, find_class())

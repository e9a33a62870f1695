"""The part of CEL that the embedded control plane knows; what is outside of it is refused, never ignored."""

from __future__ import annotations

import pytest

from fracgpu.controller.fit.views import GpuView
from fracgpu.driver.names import DRIVER_NAME
from fracgpu.sim.control.cel import FRACTION_SELECTOR, WHOLE_SELECTOR, SelectorNotSupportedError, device_matcher
from fracgpu.sim.control.cel_subset import NotUnderstoodError, compile_selector

ATTRIBUTES = f"device.attributes['{DRIVER_NAME}']"
CAPACITY = f"device.capacity['{DRIVER_NAME}']"
GPU = GpuView(
    node="n",
    pool="n",
    device="gpu-0",
    physical_memory_bytes=48 << 30,
    memory_bytes=48 << 30,
    attributes={"productName": "NVIDIA L40S", "numaNode": 1, "oversubscribed": False, "allocator": "controller"},
)


@pytest.mark.parametrize(
    ("expression", "holds"),
    [
        (FRACTION_SELECTOR, True),
        (WHOLE_SELECTOR, True),
        ("true", True),
        (f"device.driver != '{DRIVER_NAME}'", False),
        (f'{ATTRIBUTES}.productName == "NVIDIA L40S"', True),
        (f"{ATTRIBUTES}.productName.startsWith('NVIDIA T4')", False),
        (f"{ATTRIBUTES}['productName'].contains('L40')", True),
        (f"{ATTRIBUTES}.productName.matches('L[0-9]+S$')", True),
        (f"{ATTRIBUTES}.productName in ['NVIDIA L40S']", None),
        (f"{ATTRIBUTES}.numaNode == 1 && !{ATTRIBUTES}.oversubscribed", True),
        (f"{ATTRIBUTES}.numaNode > 1 || {ATTRIBUTES}.numaNode <= 0", False),
        (f"!({ATTRIBUTES}.numaNode > 1) && true", True),
        (f"'numaNode' in {ATTRIBUTES}", True),
        (f"{ATTRIBUTES}.?missing.orValue('none') == 'none'", True),
        (f"{CAPACITY}.memory.compareTo(quantity('40Gi')) >= 0", True),
        (f"{CAPACITY}.memory.isLessThan(quantity('40Gi'))", False),
        # Fails for this device, as in CEL.
        (f"{ATTRIBUTES}.missing == 1", None),
        (f"{ATTRIBUTES}.?numaNode == 1", None),
        (f"{ATTRIBUTES}.?missing == {ATTRIBUTES}.?other", None),
        (f"{ATTRIBUTES}.numaNode.orValue(2) == 1", None),
        (f"{ATTRIBUTES}.productName.?part.orValue('') == ''", None),
        (f"'L40' in {ATTRIBUTES}.productName", None),
        (f"{ATTRIBUTES}.numaNode == '1'", None),
        (f"{ATTRIBUTES}.productName", None),
        (f"{ATTRIBUTES}.numaNode && true", None),
        # Not known here, or no CEL at all.
        (f"{ATTRIBUTES}.productName.size() > 3", None),
        ("device.driver ==", None),
        ("device.driver == 'a", None),
        ("(true", None),
        ("true false", None),
        ("devices.all(d, true)", None),
        ("", None),
    ],
)
def test_an_expression_holds_or_is_not_understood(expression: str, holds: bool | None) -> None:
    if holds is not None:
        assert compile_selector(expression)(GPU) is holds
        return
    with pytest.raises(NotUnderstoodError):
        compile_selector(expression)(GPU)


@pytest.mark.parametrize(
    "expression", ["device.driver ==", f"{ATTRIBUTES}.missing == 1", f"{CAPACITY}.memory == quantity('x')"]
)
def test_what_is_not_understood_is_named(expression: str) -> None:
    with pytest.raises(SelectorNotSupportedError) as caught:
        device_matcher([FRACTION_SELECTOR, expression], "claim c")(GPU)
    assert repr(expression) in caught.value.what

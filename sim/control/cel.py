"""The device selectors that this control plane understands: those of the two shipped classes, by their text.

A CEL interpreter is no part of a stand-in. What is not understood is refused by name and never ignored: a selector that
is skipped would hand out GPUs that somebody meant to exclude.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence

from fracgpu.controller.views import GpuView
from fracgpu.driver.errors import FracgpuError
from fracgpu.driver.names import ATTR_ALLOCATOR, ATTR_OVERSUBSCRIBED, DRIVER_NAME
from fracgpu.driver.reasons import ReasonCode

_ATTRIBUTES = f"device.attributes['{DRIVER_NAME}']"
FRACTION_SELECTOR = f"device.driver == '{DRIVER_NAME}' && {_ATTRIBUTES}.?{ATTR_ALLOCATOR}.orValue('') == 'scheduler'"
WHOLE_SELECTOR = f"{FRACTION_SELECTOR} && !{_ATTRIBUTES}.?{ATTR_OVERSUBSCRIBED}.orValue(true)"


class SelectorNotSupportedError(FracgpuError):
    """A CEL expression that is not one of the shipped ones."""

    code = ReasonCode.SELECTOR_NOT_SUPPORTED


def _is_ours(_gpu: GpuView) -> bool:
    # GpuViews are made of our driver's devices only, and the engine presents those that it owns as `scheduler`.
    return True


def _is_whole(gpu: GpuView) -> bool:
    return gpu.attributes.get(ATTR_OVERSUBSCRIBED, True) is False


_UNDERSTOOD: dict[str, Callable[[GpuView], bool]] = {
    re.sub(r"\s+", "", FRACTION_SELECTOR): _is_ours,
    re.sub(r"\s+", "", WHOLE_SELECTOR): _is_whole,
}


def device_matcher(expressions: Sequence[str], subject: str) -> Callable[[GpuView], bool]:
    """Return the predicate of some CEL expressions, all of which must hold. Raises SelectorNotSupportedError."""
    tests: list[Callable[[GpuView], bool]] = []
    for expression in expressions:
        found = _UNDERSTOOD.get(re.sub(r"\s+", "", expression))
        if found is None:
            remedy = "the embedded cluster understands only the selectors of the shipped device classes"
            raise SelectorNotSupportedError(subject, f"CEL expression {expression!r} is not understood", remedy=remedy)
        tests.append(found)

    def matches(gpu: GpuView) -> bool:
        return all(test(gpu) for test in tests)

    return matches

"""The device selectors that this control plane understands: a part of CEL, and no other expression.

What is not understood is refused by name and never ignored: a selector that is skipped would hand out GPUs that
somebody meant to exclude.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence

from fracgpu.controller.fit.views import GpuView
from fracgpu.driver.errors import FracgpuError, QuantityInvalid
from fracgpu.driver.names import ATTR_ALLOCATOR, ATTR_OVERSUBSCRIBED, DRIVER_NAME
from fracgpu.driver.reasons import ReasonCode
from fracgpu.sim.control.cel_subset import NotUnderstoodError, compile_selector

_ATTRIBUTES = f"device.attributes['{DRIVER_NAME}']"
FRACTION_SELECTOR = f"device.driver == '{DRIVER_NAME}' && {_ATTRIBUTES}.?{ATTR_ALLOCATOR}.orValue('') == 'scheduler'"
WHOLE_SELECTOR = f"{FRACTION_SELECTOR} && !{_ATTRIBUTES}.?{ATTR_OVERSUBSCRIBED}.orValue(true)"


class SelectorNotSupportedError(FracgpuError):
    """A CEL expression outside the part that is known, or one that fails for a device."""

    code = ReasonCode.SELECTOR_NOT_SUPPORTED


def device_matcher(expressions: Sequence[str], subject: str) -> Callable[[GpuView], bool]:
    """Return the predicate of some CEL expressions, all of which must hold.

    Raises SelectorNotSupportedError, and so may the predicate when it meets a device that has not what is asked for.
    """
    tests = [_matcher(expression, subject) for expression in expressions]

    def matches(gpu: GpuView) -> bool:
        return all(test(gpu) for test in tests)

    return matches


def _matcher(expression: str, subject: str) -> Callable[[GpuView], bool]:
    def not_supported(error: Exception) -> SelectorNotSupportedError:
        remedy = "the embedded cluster knows a part of CEL only, see docs/dev/sim-cluster.md"
        what = f"CEL expression {expression!r} is not understood: {error}"
        return SelectorNotSupportedError(subject, what, remedy=remedy)

    try:
        compiled = compile_selector(expression)
    except (NotUnderstoodError, QuantityInvalid) as error:
        raise not_supported(error) from error

    def matches(gpu: GpuView) -> bool:
        try:
            return compiled(gpu)
        except (NotUnderstoodError, QuantityInvalid, AttributeError, TypeError, re.error) as error:
            raise not_supported(error) from error

    return matches

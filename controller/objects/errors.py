"""The errors of reading and writing objects: each with the code that events and metrics name it by."""

from __future__ import annotations

from fracgpu.driver.codes import ReasonCode
from fracgpu.driver.errors import FracgpuError


class DemandRefused(FracgpuError):
    """A claim asks for something that no allocation can be written for; `code` is its reason code."""

    def __init__(self, subject: str, what: str, *, remedy: str, code: ReasonCode = ReasonCode.CONFIG_INVALID) -> None:
        super().__init__(subject, what, remedy=remedy)
        self.code = code

    def __reduce__(self) -> tuple[object, ...]:
        return (_rebuild, (self.subject, self.what, self.remedy, self.code))


def _rebuild(subject: str, what: str, remedy: str, code: ReasonCode) -> DemandRefused:
    return DemandRefused(subject, what, remedy=remedy, code=code)


class SliceInvalid(FracgpuError):
    """A published slice, or one device of it, cannot be counted with. It is told and left out, never raised."""

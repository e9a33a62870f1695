"""What keeps the lab from giving an answer at all; an exercise that fails is an answer, not an error."""

from __future__ import annotations

from fracgpu.driver.errors import FracgpuError


class LabUnavailable(FracgpuError):
    """Something the lab needs is missing on this machine."""


class LabTimeout(FracgpuError):
    """What the lab waited for did not happen; the text says what was seen last."""


class CommandFailed(FracgpuError):
    """A command inside a pod ended with an error, or printed something else than expected."""

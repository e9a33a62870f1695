"""Errors of the commands that this package has itself."""

from fracgpu.driver.errors import FracgpuError


class UsageWrong(FracgpuError):
    """The command line can not be understood, or asks for something that makes no sense anywhere."""


class RunRefused(FracgpuError):
    """`fracgpu run` can not give the command what was asked for on this machine; nothing was started."""


class LimitsRefused(FracgpuError):
    """`fracgpu limits` can not do what was asked for on this node; nothing was changed."""


class NoAnswer(FracgpuError):
    """A library that may hang did not answer in time, or ended the process that asked it."""

"""Errors of the CDI package: a spec that is wrong, a driver root that lacks something, a file in the way."""

from fracgpu.driver.errors import FracgpuError


class CdiSpecInvalid(FracgpuError):
    """A CDI spec that a runtime would refuse or misread. Always a defect in what built it, never the user's."""

    def __init__(
        self, subject: str, what: str, *, remedy: str = "report this as a defect of fracgpu, with the claim"
    ) -> None:
        super().__init__(f"CDI spec {subject}", what, remedy=remedy)


class DriverFilesMissing(FracgpuError):
    """The driver root has no usable NVIDIA driver, or lacks a file or device node that every container needs."""


class DriverAbsent(DriverFilesMissing):
    """There is no libcuda in the driver root at all: nothing was installed there, or not for this kind of machine."""


class DriverAmbiguous(DriverFilesMissing):
    """Files of several drivers lie in the driver root, and nothing says which one is in use."""


class DriverUnsupported(DriverFilesMissing):
    """A driver is there, but of a kind that can not be taken apart into mounts (WSL)."""


class ElfInvalid(FracgpuError):
    """A file that should be a 64-bit shared library is none."""

    def __init__(
        self, subject: str, what: str, *, remedy: str = "reinstall the NVIDIA driver or correct --driver-root"
    ) -> None:
        super().__init__(subject, what, remedy=remedy)

"""What can be wrong with the native side, as typed errors.

Each class carries the remedy that fits all its cases, so that a message never ends without a next step.
"""

from typing import ClassVar

from fracgpu.driver.errors import FracgpuError


class NativeError(FracgpuError):
    """Base of the errors of fracgpu.native: `subject` names the file or value, `what` the finding."""

    default_remedy: ClassVar[str]

    def __init__(self, subject: str, what: str, *, remedy: str = "") -> None:
        super().__init__(subject, what, remedy=remedy or self.default_remedy)


class DeviceUuidInvalid(NativeError):
    """A GPU UUID is not in the form that NVML and nvidia-smi print."""

    default_remedy = "use the UUID that `nvidia-smi -L` prints"


class ConfigPageInvalid(NativeError):
    """A config page can not be written, or is not one that the interceptor would accept."""

    default_remedy = "let the node plugin prepare the claim again"


class StateFileInvalid(NativeError):
    """A state file is missing or is not what the node plugin created."""

    default_remedy = "take the container for tampered with and restart it"


class NativeLibrariesMissing(NativeError):
    """A compiled artefact is not where it is looked for."""

    default_remedy = "run `make native`, install the wheel, or set FRACGPU_NATIVE_DIR"


class FeedbackUnwritable(NativeError):
    """The host can not publish what it observes of an allocation: its processes go on with what they know."""

    default_remedy = "nothing: claims prepared from now on have a feedback section"


class ConfigPageBusy(NativeError):
    """A config page can not be changed now: another process of the host is in the middle of a change."""

    default_remedy = "try again; if that process hangs, end it: the next change makes good what it left"

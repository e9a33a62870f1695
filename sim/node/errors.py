"""What can go wrong on a node, named as the kubelet and the container runtime name it."""

from __future__ import annotations

from fracgpu.driver.errors import FracgpuError


class PrepareFailed(FracgpuError):
    """A claim of the pod could not be prepared; the pod waits and preparation is tried again.

    ``what`` is the kubelet's own text, for the pod's event.
    """


class ClaimNotNamed(FracgpuError):
    """The claim of one of the pod's templates does not exist yet."""


class ClaimNotForPod(FracgpuError):
    """The claim that the pod's status names was not made for this pod."""


class UnprepareFailed(FracgpuError):
    """A claim could not be released; the pod stays until it can be."""


class ContainerCreateError(FracgpuError):
    """The container could not be created (reason ``CreateContainerError``); it is tried again."""


class CdiInvalid(ContainerCreateError):
    """A CDI spec file cannot be understood."""


class CdiUnresolvable(ContainerCreateError):
    """A CDI device id is in no spec file, or in several."""


class ContainerStartError(FracgpuError):
    """The container was created but its command could not be started (reason ``StartError``, exit code 128)."""


class RegistrationFailed(FracgpuError):
    """A socket in the registry directory is not a DRA plugin that this node can use."""

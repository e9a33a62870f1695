"""Errors of the kubelet plugin: one type per decision that a caller takes.

What Prepare raises ends up as the text of a pod's FailedPrepareDynamicResources event, so every message names claim
and device and carries the numbers.
"""

from fracgpu.driver.codes import ReasonCode
from fracgpu.driver.errors import FracgpuError


class ClaimInvalid(FracgpuError):
    """The ResourceClaim is not what the kubelet announced, is not allocated, or is malformed."""


class ClaimRefused(FracgpuError):
    """The claim's allocation can not be granted on this node. `code` is stable and goes into events and metrics."""

    def __init__(self, subject: str, what: str, *, code: ReasonCode, remedy: str) -> None:
        super().__init__(subject, what, remedy=remedy)
        self.code = code


class ClaimChanged(FracgpuError):
    """The claim is prepared here with another allocation, which containers may be using."""


class ClaimOvertaken(FracgpuError):
    """The kubelet took the claim back while this Prepare of it was still under way."""


class AccountDamaged(FracgpuError):
    """A container has written over its state file while processes are using it; it can not be made good under them."""


class DeadlineExceeded(FracgpuError):
    """A call took longer than the kubelet waits for it. Nothing on the node was changed for it after that."""


class NodeLockTimeout(FracgpuError):
    """Something else holds the node lock for too long."""


class CheckpointInvalid(FracgpuError):
    """The checkpoint can not be read. It is left as it is, and nothing is prepared or taken back until it is."""


class InterceptorDamaged(FracgpuError):
    """A stored interceptor is gone, or does not have the content that its directory is named after."""


class SocketInvalid(FracgpuError):
    """A socket can not be made where an option puts it."""

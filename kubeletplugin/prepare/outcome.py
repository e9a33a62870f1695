"""What Prepare and Unprepare did, for the answer to the kubelet and for whoever tells of it."""

from dataclasses import dataclass

from fracgpu.kubeletplugin.prepare.plan import PreparedDevice


@dataclass(frozen=True, slots=True, kw_only=True)
class PreparedClaim:
    """A prepared claim: its devices, the pods that it is reserved for (`namespace/name`), the UUIDs of its GPUs."""

    devices: tuple[PreparedDevice, ...]
    pods: tuple[str, ...]
    gpu_uuids: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class ReleasedClaim:
    """A claim that was taken back.

    `known` is False when nothing was prepared for it. `deferred` says that processes still use its files: no new
    container can get them, they still count against the GPU, and they go with the last process.
    """

    known: bool
    deferred: bool = False
    gpu_uuids: tuple[str, ...] = ()

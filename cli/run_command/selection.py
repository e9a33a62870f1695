"""Which GPUs the command gets, and whether they have what was asked for.

Without --gpu the user's CUDA_VISIBLE_DEVICES counts, because batch systems set it; without that it is the first GPU.
Numbers are NVML's, as nvidia-smi shows them. CUDA's own numbering differs (fastest first) unless it is told not to, so
a number in CUDA_VISIBLE_DEVICES is taken only where both must mean the same card.
"""

from __future__ import annotations

from collections.abc import Mapping

from fracgpu.cli.errors import RunRefused
from fracgpu.cli.run_command.options import RunOptions
from fracgpu.driver.gpu import Gpu
from fracgpu.driver.quantity import format_mib

VISIBLE_ENV = "CUDA_VISIBLE_DEVICES"
_ORDER_ENV = "CUDA_DEVICE_ORDER"
_BUS_ORDER = "PCI_BUS_ID"
_LIST_REMEDY = "choose one that nvidia-smi -L shows"


def select_gpus(options: RunOptions, gpus: tuple[Gpu, ...], environment: Mapping[str, str]) -> tuple[Gpu, ...]:
    """Return the GPUs for the command, in the order asked for.

    Raises RunRefused when there is none, when one is unknown, lost or named twice, or has less memory than the limit.
    """
    if not gpus:
        raise RunRefused("this machine", "has no GPU that NVML shows", remedy="see fracgpu doctor")
    chosen = tuple(_find(name, gpus) for name in options.gpus) or _inherited(gpus, environment) or gpus[:1]
    for place, gpu in enumerate(chosen):
        subject = f"GPU {gpu.index} ({gpu.uuid})"
        if gpu in chosen[:place]:
            raise RunRefused(subject, "is asked for twice", remedy="name each GPU once")
        if not gpu.healthy:
            raise RunRefused(
                subject, "does not answer", remedy="look for Xid errors in the kernel log, or choose another"
            )
        if options.memory_bytes > gpu.physical_memory_bytes:
            what = f"has {format_mib(gpu.physical_memory_bytes)}, less than --memory {format_mib(options.memory_bytes)}"
            raise RunRefused(subject, what, remedy="ask for less, or choose another GPU")
    return chosen


def _find(name: str, gpus: tuple[Gpu, ...]) -> Gpu:
    """Return the GPU of an index, a UUID, or the beginning of one that only one GPU has."""
    if name.isascii() and name.isdecimal():
        # Compared as texts: a number may have more digits than Python takes.
        found = [gpu for gpu in gpus if str(gpu.index) == (name.lstrip("0") or "0")]
    else:
        # A bare `GPU-` would match every card.
        wanted = name.lower() if len(name) > len("GPU-") else "?"
        found = [gpu for gpu in gpus if gpu.uuid.lower().startswith(wanted)]
    if len(found) > 1:
        raise RunRefused(f"GPU {name}", "is the beginning of several UUIDs", remedy="give the whole UUID")
    if not found:
        if name.upper().startswith("MIG-"):
            raise RunRefused(f"GPU {name}", "is a MIG device, which has limits of its own", remedy=_LIST_REMEDY)
        raise RunRefused(f"GPU {name}", f"is none of the {len(gpus)} on this machine", remedy=_LIST_REMEDY)
    return found[0]


def _inherited(gpus: tuple[Gpu, ...], environment: Mapping[str, str]) -> tuple[Gpu, ...]:
    text = environment.get(VISIBLE_ENV)
    if text is None:
        return ()
    names = [name.strip() for name in text.split(",") if name.strip()]
    if not names or names[0] == "-1":
        raise RunRefused(VISIBLE_ENV, f"is {text!r}, which hides every GPU", remedy="unset it, or choose with --gpu")
    same_order = len(gpus) == 1 or environment.get(_ORDER_ENV) == _BUS_ORDER
    if not same_order and any(name.isdecimal() for name in names):
        remedy = f"choose with --gpu, or set {_ORDER_ENV}={_BUS_ORDER}"
        raise RunRefused(VISIBLE_ENV, f"{text!r} counts GPUs in CUDA's own order", remedy=remedy)
    return tuple(_find(name, gpus) for name in names)

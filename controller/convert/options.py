"""What the translation is told about the cluster it is for."""

from __future__ import annotations

from dataclasses import dataclass

from fracgpu.driver.amounts import Allocator


@dataclass(frozen=True, slots=True, kw_only=True)
class ShareDefault:
    """What a container gets that names a GPU and no amount; the counterpart of HAMi's defaultMemory and defaultCores.

    One of `memory_mib` and `memory_percent` (1..100) is given; `cores` is in percent of one GPU, 0 reserves none.
    """

    memory_mib: int | None = None
    memory_percent: int | None = None
    cores: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class ConvertOptions:
    """How to translate.

    `card_mib` are the memory sizes of the cluster's GPUs in MiB, preferred first: where kube-scheduler allocates, a
    percentage becomes one alternative for each. Without `share_default` an amount that is not said is the whole card.
    """

    allocator: Allocator = "controller"
    card_mib: tuple[int, ...] = ()
    share_default: ShareDefault | None = None

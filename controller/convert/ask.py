"""What one container asks of a device plugin, read as that plugin's scheduler reads it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from fracgpu.controller.convert.dialects import (
    DIALECTS,
    MIG_PREFIX,
    NVIDIA_PREFIX,
    Dialect,
    is_resource,
    is_strange_resource,
)
from fracgpu.controller.convert.findings import Findings
from fracgpu.controller.convert.options import ConvertOptions
from fracgpu.driver.errors import QuantityInvalid
from fracgpu.driver.quantity import quantity_int

MAX_DEVICES: Final = 32
"""Devices that one claim can be given; a limit of the API."""
# 1 TiB: a number that is larger was meant in bytes.
_MAX_MIB: Final = 1024 * 1024
_FULL: Final = 100


@dataclass(frozen=True, slots=True, kw_only=True)
class Ask:
    """`count` GPUs, of each the same. Without `memory_mib` and `memory_percent` (1..100) it is the whole card's memory.

    `cores` is in percent of one GPU, 0 asks for none. `whole` tells that no amount was said at all.
    """

    count: int = 1
    memory_mib: int | None = None
    memory_percent: int | None = None
    cores: int = 0
    whole: bool = False


def foreign_resources(resources: Mapping[str, Any]) -> list[str]:
    """Return the names of device plugins' resources in a container's `resources`, each once, in their order."""
    names = [name for part in ("limits", "requests") for name in (resources.get(part) or {}) if is_resource(str(name))]
    return list(dict.fromkeys(names))


def read_ask(resources: Mapping[str, Any], options: ConvertOptions, findings: Findings) -> Ask | None:
    """Return what a container's `resources` ask for; None for nothing (a count of 0), and after a refusal."""
    names = foreign_resources(resources)
    limits, requests = resources.get("limits") or {}, resources.get("requests") or {}
    for name in [key for key in {**limits, **requests} if is_strange_resource(str(key))]:
        findings.note(f"{name} is left as it is: it is no resource for GPUs that is known here")
    for name in names:
        if name.startswith(MIG_PREFIX):
            findings.refuse(f"{name} is a MIG device, which no claim of ours can be; leave it to NVIDIA's driver")
        elif name in limits and name in requests and str(limits[name]) != str(requests[name]):
            findings.note(f"{name} is {limits[name]} in limits and {requests[name]} in requests: the limit was taken")
    spoken = [dialect for dialect in DIALECTS if any(name in dialect.resources for name in names)]
    if len(spoken) > 1:
        findings.refuse(f"asks {' and '.join(one.name for one in spoken)} at once; keep the resources of one")
    if len(spoken) != 1 or findings.refused:
        return None
    return _Reader(spoken[0], {**requests, **limits}, findings).read(options)


class _Reader:
    """The resources of one container in one dialect; the limits have been laid over the requests."""

    def __init__(self, dialect: Dialect, stated: Mapping[str, Any], findings: Findings) -> None:
        self._dialect = dialect
        self._stated = stated
        self._findings = findings

    def read(self, options: ConvertOptions) -> Ask | None:
        dialect = self._dialect
        # An amount without a number of GPUs is one GPU: HAMi's defaultGPUNum.
        count = self._number(dialect.count, most=MAX_DEVICES) if dialect.count in self._stated else 1
        memory = self._number(dialect.memory, most=_MAX_MIB)
        percent = self._number(dialect.percent, most=_FULL)
        cores = self._number(dialect.cores)
        if self._findings.refused or not count:
            return None
        if memory and percent:
            self._findings.note(f"{dialect.memory} counts, {dialect.percent} beside it does not, as in HAMi")
        if percent == 0 and not memory:
            self._findings.refuse(f"{dialect.percent} 0 asks for a GPU without memory; say how much")
            return None
        for name in dialect.ignored:
            if name in self._stated:
                self._findings.note(f"{name} is dropped: there is no priority among sharers of a GPU")
        return self._with_defaults(count, memory or None, None if memory else percent, self._capped(cores), options)

    def _with_defaults(
        self, count: int, memory: int | None, percent: int | None, cores: int | None, options: ConvertOptions
    ) -> Ask | None:
        default = options.share_default
        said_memory = memory is not None or percent is not None
        if self._dialect.shared and default is None:
            self._findings.refuse(f"{self._dialect.count} says no amount; give --share-default, as 8Gi or 25%,30")
            return None
        if not said_memory and default is not None:
            memory, percent = default.memory_mib, default.memory_percent
        if cores is None and default is not None:
            cores = default.cores
        whole = not said_memory and cores is None and default is None
        return Ask(count=count, memory_mib=memory, memory_percent=percent, cores=cores or 0, whole=whole)

    def _capped(self, cores: int | None) -> int | None:
        name = self._dialect.cores
        if cores is not None and cores > _FULL:
            self._findings.note(f"{name} {cores} is more than a GPU has: {_FULL} was taken, as HAMi does")
            cores = _FULL
        memory, percent = self._stated.get(self._dialect.memory), self._stated.get(self._dialect.percent, _FULL)
        if cores == _FULL and (memory or str(percent) != str(_FULL)):
            self._findings.note(
                f"{name} {_FULL} kept every other sharer off the GPU; here sharers that reserve no cores may join"
            )
        return cores

    def _number(self, name: str, *, most: int | None = None) -> int | None:
        """Return the value of a resource, None if it is not stated or was refused."""
        if not name or name not in self._stated:
            return None
        value = self._stated[name]
        try:
            number = quantity_int(value, unit="units")
        except QuantityInvalid as error:
            what = "is not whole" if isinstance(value, float) else error.what
            self._findings.refuse(f"{name} {value!r:.80} {what}; write a whole number")
            return None
        if most is not None and number > most:
            self._findings.refuse(f"{name} {value} is more than {most}; {self._remedy(name)}")
            return None
        return number

    def _remedy(self, name: str) -> str:
        if name == self._dialect.memory:
            return "it is in MiB: 8192, not 8Gi"
        return "write a percentage" if name == self._dialect.percent else "ask for fewer GPUs in a pod"


def quota_resource(name: str) -> str:
    """Return the resource that a quota's key is about: `requests.nvidia.com/gpu` limits `nvidia.com/gpu`."""
    bare = name.removeprefix("requests.").removeprefix("limits.")
    return bare if bare.startswith((NVIDIA_PREFIX, "volcano.sh/")) else name

"""Which GPUs a pod wants, as its annotations say: types and UUIDs become CEL selectors, policies become placement."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from fracgpu.controller.convert import dialects
from fracgpu.controller.convert.findings import Findings
from fracgpu.driver.amounts import Allocator
from fracgpu.driver.config import Placement, Policy
from fracgpu.driver.names import ATTR_PRODUCT_NAME, ATTR_UUID, DRIVER_NAME

_POLICIES: Final[dict[str, Policy]] = {"binpack": "Binpack", "spread": "Spread"}
_EXCLUSIVE: Final = "mutex"
# HAMi looks for the wanted text in this and the product's name.
_TYPE_PREFIX: Final = "NVIDIA-"
_PLAIN: Final = re.compile(r"[A-Za-z0-9 _-]")
_UUID: Final = re.compile(r"[A-Za-z0-9-]+")
_TRUE: Final = ("1", "t", "T", "TRUE", "true", "True")
_ATTRIBUTES: Final = f"device.attributes['{DRIVER_NAME}']"


@dataclass(frozen=True, slots=True, kw_only=True)
class Wishes:
    """What the annotations of a pod say about all its GPUs. `same_numa` is for containers with several."""

    selectors: tuple[str, ...] = ()
    placement: Placement | None = None
    same_numa: bool = False


def read_wishes(annotations: Mapping[str, Any], allocator: Allocator, findings: Findings) -> Wishes:
    """Return what a pod's annotations ask for; what they ask in vain becomes a finding."""
    said = {str(name): str(value) for name, value in annotations.items() if name in dialects.ANNOTATIONS}
    _other_modes(said, findings)
    return Wishes(
        selectors=(*_types(said, findings), *_uuids(said, findings)),
        placement=_placement(said, allocator, findings),
        same_numa=_same_numa(said, findings),
    )


def _first(said: Mapping[str, str], names: Sequence[str]) -> tuple[str, str] | None:
    return next(((name, said[name]) for name in names if name in said), None)


def _types(said: Mapping[str, str], findings: Findings) -> list[str]:
    selectors = []
    for names, negated in ((dialects.USE_TYPE, ""), (dialects.NOUSE_TYPE, "!")):
        found = _first(said, names)
        if found is None:
            continue
        name, value = found
        wanted = [part.strip() for part in value.split(",") if part.strip()]
        pattern = "|".join(_pattern(part) for part in wanted)
        if not wanted or "?" in pattern:
            findings.refuse(f"annotation {name} {value!r:.80} is no list of product names; write a CEL selector")
        else:
            attribute = f"{_ATTRIBUTES}.?{ATTR_PRODUCT_NAME}.orValue('')"
            selectors.append(f"{negated}{attribute}.matches('(?i){pattern}')")
    return selectors


def _pattern(wanted: str) -> str:
    """Return the regular expression that finds in a product's name what HAMi finds in `NVIDIA-` and that name."""
    if wanted.upper() in _TYPE_PREFIX:
        return "^"
    across = [wanted[cut:] for cut in range(1, len(wanted)) if _TYPE_PREFIX.endswith(wanted[:cut].upper())]
    return "|".join((_quoted(wanted), *(f"^{_quoted(rest)}" for rest in across)))


def _quoted(text: str) -> str:
    """Return a pattern for exactly `text`; a `?` stands for what no product's name has, and is refused."""
    return "".join(char if _PLAIN.match(char) else f"[{char}]" if char in "./()+" else "?" for char in text)


def _uuids(said: Mapping[str, str], findings: Findings) -> list[str]:
    use, avoid = _first(said, dialects.USE_UUID), _first(said, dialects.NOUSE_UUID)
    if use is not None and avoid is not None:
        findings.note(f"annotation {use[0]} counts, {avoid[0]} beside it does not, as in HAMi")
    found = use or avoid
    if found is None:
        return []
    name, value = found
    wanted = [part.strip() for part in value.split(",") if part.strip()]
    if not wanted or any(_UUID.fullmatch(part) is None for part in wanted):
        findings.refuse(f"annotation {name} {value!r:.80} is no list of UUIDs; write them as nvidia-smi -L does")
        return []
    members = ", ".join(f"'{part}'" for part in wanted)
    inside = f"{_ATTRIBUTES}.?{ATTR_UUID}.orValue('') in [{members}]"
    return [inside if use is not None else f"!({inside})"]


def _placement(said: Mapping[str, str], allocator: Allocator, findings: Findings) -> Placement | None:
    gpu = _policy(said, dialects.GPU_POLICY, findings)
    node = _policy(said, dialects.NODE_POLICY, findings)
    if gpu is None and node is None:
        return None
    if allocator == "scheduler":
        findings.note("binpack and spread are dropped: kube-scheduler takes GPUs in the order of the ResourceSlice")
        return None
    return Placement(gpu=gpu, node=node)


def _policy(said: Mapping[str, str], names: Sequence[str], findings: Findings) -> Policy | None:
    found = _first(said, names)
    if found is None or found[1] in ("", "none"):
        return None
    name, value = found
    if value in _POLICIES:
        return _POLICIES[value]
    if value == _EXCLUSIVE:
        findings.refuse(f"annotation {name} {value} wants a GPU without sharers; ask for the whole GPU")
    else:
        findings.note(f"annotation {name} {value!r:.80} is dropped: there are binpack and spread")
    return None


def _same_numa(said: Mapping[str, str], findings: Findings) -> bool:
    mode = said.get(dialects.TOPOLOGY_MODE, "none")
    if mode == "numa":
        findings.note(f"annotation {dialects.TOPOLOGY_MODE} numa was a wish; now GPUs of one NUMA node are a must")
    elif mode not in ("none", "", "numa-strict"):
        findings.note(f"annotation {dialects.TOPOLOGY_MODE} {mode!r:.80} is dropped: links between GPUs are not known")
    return mode in ("numa", "numa-strict") or said.get(dialects.NUMA_BIND) in _TRUE


def _other_modes(said: Mapping[str, str], findings: Findings) -> None:
    mode = said.get(dialects.MODE)
    if mode is not None and "hami-core" not in mode:
        if "mig" in mode:
            findings.refuse(f"annotation {dialects.MODE} {mode!r:.80} wants a MIG device; leave it to HAMi or NVIDIA")
        else:
            findings.note(f"annotation {dialects.MODE} {mode!r:.80} is dropped: memory is limited inside the container")
    if said.get(dialects.COMPUTE_POLICY, "fixed") != "fixed":
        findings.note(f"annotation {dialects.COMPUTE_POLICY} is dropped: the DeviceClass says how cores are limited")
    if said.get(dialects.MEMORY_POLICY, "none") != "none":
        findings.note(f"annotation {dialects.MEMORY_POLICY} is dropped: the node's administrator decides on overcommit")
    if dialects.SCORING_WEIGHTS in said:
        findings.note(f"annotation {dialects.SCORING_WEIGHTS} is dropped: GPUs are compared by memory in use")

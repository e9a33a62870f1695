"""From claims and classes to the requests that the fit engine answers.

Configuration is refused here, before anything is written, in the words that the user will read on the pod.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from fracgpu.controller.fit.views import Constraint, DeviceRequest, Policy
from fracgpu.driver.config import FractionConfig, Placement, merge_configs, parse_config
from fracgpu.driver.errors import FracgpuError
from fracgpu.driver.names import ATTR_NUMA_NODE, ATTR_PCIE_ROOT, DRIVER_NAME
from fracgpu.driver.parameters import Source
from fracgpu.driver.reasons import ReasonCode
from fracgpu.sim.api.objects import JsonObject, dig, name_of, namespace_of, uid_of
from fracgpu.sim.api.rawjson import plain
from fracgpu.sim.control.cel import device_matcher

ClassLookup = Callable[[str], JsonObject | None]
_MAX_COMBINATIONS = 64


class DemandError(FracgpuError):
    """A claim asks for something that cannot be tried at all; `code` is its reason code."""

    def __init__(self, subject: str, what: str, *, code: ReasonCode, remedy: str) -> None:
        super().__init__(subject, what, remedy=remedy)
        self.code = code


@dataclass(frozen=True, slots=True)
class Demand:
    """What one pod needs at once: combinations of requests, the preferred first, and constraints on all of them."""

    combinations: tuple[tuple[DeviceRequest, ...], ...]
    constraints: tuple[Constraint, ...]
    node_policy: Policy


def is_ours(claim: JsonObject, find_class: ClassLookup) -> bool:
    """Tell whether a claim is for our allocator: one of its classes selects or configures our driver, or is missing."""
    names = [part.get("deviceClassName", "") for _, part in _parts(claim)]
    classes = [find_class(name) for name in names]
    return any(item is None or _mentions_us(item) for item in classes)


def _mentions_us(device_class: JsonObject) -> bool:
    expressions = [dig(item, "cel", "expression") or "" for item in dig(device_class, "spec", "selectors") or []]
    drivers = [dig(item, "opaque", "driver") for item in dig(device_class, "spec", "config") or []]
    return any(DRIVER_NAME in expression for expression in expressions) or DRIVER_NAME in drivers


def _parts(claim: JsonObject) -> list[tuple[str, JsonObject]]:
    parts: list[tuple[str, JsonObject]] = []
    for request in dig(claim, "spec", "devices", "requests") or []:
        if request.get("exactly"):
            parts.append((request["name"], request["exactly"]))
        parts += [(f"{request['name']}/{part['name']}", part) for part in request.get("firstAvailable") or []]
    return parts


def build_demand(claims: Sequence[JsonObject], find_class: ClassLookup, *, keeps_capacity: bool) -> Demand:
    """Return what some claims need together. Raises DemandError, ConfigInvalid or SelectorNotSupportedError."""
    choices: list[list[DeviceRequest]] = []
    constraints: list[Constraint] = []
    for claim in claims:
        reader = _ClaimReader(claim, find_class, keeps_capacity=keeps_capacity)
        choices += reader.choices()
        constraints += reader.constraints()
    # The earlier a request, the more its preference counts: that is the order of a Cartesian product.
    combinations = tuple(itertools.islice(itertools.product(*choices), _MAX_COMBINATIONS))
    node_policy: Policy = "Binpack"
    for request in itertools.chain.from_iterable(choices):
        node_policy = _placement(request.class_config, request.claim_config).node or node_policy
        constraints += _topology(request)
    return Demand(combinations, tuple(dict.fromkeys(constraints)), node_policy)


def _placement(class_config: FractionConfig, claim_config: FractionConfig) -> Placement:
    merged = merge_configs([("FromClass", class_config), ("FromClaim", claim_config)])
    return merged.placement or Placement()


def _topology(request: DeviceRequest) -> list[Constraint]:
    wanted = _placement(request.class_config, request.claim_config).topology
    if wanted == "Numa":
        unknown = (-1,)
        return [
            Constraint(claim=request.claim, attribute=ATTR_NUMA_NODE, unknown=unknown, code=ReasonCode.NUMA_NOT_FIT)
        ]
    return [Constraint(claim=request.claim, attribute=ATTR_PCIE_ROOT)] if wanted == "PcieRoot" else []


class _ClaimReader:
    """Reads one claim."""

    def __init__(self, claim: JsonObject, find_class: ClassLookup, *, keeps_capacity: bool) -> None:
        self._claim = claim
        self._find_class = find_class
        self._keeps_capacity = keeps_capacity
        self._subject = f"claim {namespace_of(claim)}/{name_of(claim)}"

    def choices(self) -> list[list[DeviceRequest]]:
        grouped: dict[str, list[DeviceRequest]] = {}
        for name, part in _parts(self._claim):
            grouped.setdefault(name.partition("/")[0], []).append(self._request(name, part))
        return list(grouped.values())

    def constraints(self) -> list[Constraint]:
        found: list[Constraint] = []
        for item in dig(self._claim, "spec", "devices", "constraints") or []:
            attribute = item.get("matchAttribute") or item.get("distinctAttribute")
            found.append(
                Constraint(
                    claim=uid_of(self._claim),
                    attribute=str(attribute).removeprefix(f"{DRIVER_NAME}/"),
                    kind="match" if item.get("matchAttribute") else "distinct",
                    requests=tuple(item.get("requests") or ()),
                )
            )
        return found

    def _request(self, name: str, part: JsonObject) -> DeviceRequest:
        subject = f"{self._subject} request {name}"
        class_name = str(part.get("deviceClassName"))
        device_class = self._find_class(class_name)
        if device_class is None:
            remedy = "create the DeviceClass or name another"
            raise DemandError(
                subject, f"device class {class_name} does not exist", code=ReasonCode.CLASS_NOT_FOUND, remedy=remedy
            )
        if part.get("allocationMode") != "ExactCount":
            remedy = "ask for a count"
            raise DemandError(
                subject,
                "allocationMode All is not offered by the controller",
                code=ReasonCode.CONFIG_INVALID,
                remedy=remedy,
            )
        selectors = [*(dig(device_class, "spec", "selectors") or []), *(part.get("selectors") or [])]
        class_config = self._config(dig(device_class, "spec", "config") or [], name, "FromClass")
        claim_config = self._config(dig(self._claim, "spec", "devices", "config") or [], name, "FromClaim")
        return DeviceRequest(
            claim=uid_of(self._claim),
            name=name,
            count=int(part.get("count", 1)),
            class_name=class_name,
            requests=dig(part, "capacity", "requests") or {},
            claim_config=claim_config,
            class_config=class_config,
            keeps_capacity=self._keeps_capacity,
            admin=bool(part.get("adminAccess")),
            gpu_policy=_placement(class_config, claim_config).gpu or "Spread",
            matches=device_matcher([str(dig(item, "cel", "expression")) for item in selectors], subject),
        )

    def _config(self, entries: Sequence[JsonObject], request: str, source: Source) -> FractionConfig:
        parsed: list[tuple[Source, FractionConfig]] = []
        for entry in entries:
            wanted = entry.get("requests") or []
            if wanted and request not in wanted and request.partition("/")[0] not in wanted:
                continue
            if dig(entry, "opaque", "driver") == DRIVER_NAME:
                parsed.append((source, parse_config(plain(dig(entry, "opaque", "parameters")), source=source)))
        return merge_configs(parsed)

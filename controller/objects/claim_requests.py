"""Reads the requests of one claim, and refuses what no allocation can be written for.

The API server checks the form of a claim, not whether it makes sense for us, and `fracgpu fit` reads manifests that no
server has seen. So everything is checked here, before anything is tried, in the words that the user will read.

Source: k8s.io/api/resource/v1 (DeviceClaim), pkg/apis/resource/validation of Kubernetes 1.36 (the bounds).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from fracgpu.controller.fit.views import DeviceRequest, Toleration
from fracgpu.controller.objects.classes import ClassLookup, is_our_class
from fracgpu.controller.objects.errors import DemandRefused
from fracgpu.controller.objects.facts import Json, dig, full_name, items, text, texts, uid_of
from fracgpu.controller.objects.request_amounts import check_amounts, scheduler_configs
from fracgpu.controller.objects.selectors import selector_of
from fracgpu.driver.amounts import Allocator, Capacities
from fracgpu.driver.codes import ReasonCode
from fracgpu.driver.config import FractionConfig, Placement, merge_configs, parse_config
from fracgpu.driver.errors import ConfigInvalid
from fracgpu.driver.names import DRIVER_NAME, base_request
from fracgpu.driver.parameters import Source

MAX_RESULTS: Final = 32
_MAX_REQUESTS: Final = 32
_MAX_ALTERNATIVES: Final = 8
_MAX_CONFIGS: Final = 64
_CHECK_CLAIM: Final = "write it as resource.k8s.io/v1 says"


@dataclass(frozen=True, slots=True, kw_only=True)
class ReadRequest:
    """One alternative of a request, with what it and its class say about placement."""

    request: DeviceRequest
    from_class: Placement
    from_claim: Placement

    @property
    def topology(self) -> str:
        """Return the wanted topology; the claim overrides its class."""
        return self.from_claim.topology or self.from_class.topology or "None"


class ClaimReader:
    """Reads one claim. `allocator` says by whose rules amounts are counted."""

    def __init__(self, claim: Json, find_class: ClassLookup, *, keeps_capacity: bool, allocator: Allocator) -> None:
        self._claim = claim
        self._find_class = find_class
        self._keeps_capacity = keeps_capacity
        self._allocator = allocator
        self._subject = f"claim {full_name(claim)}"

    def read(self) -> list[list[ReadRequest]]:
        """Return the requests in order, each as its alternatives.

        Raises DemandRefused, AmountsError or what selector_of raises.
        """
        requests = self._objects(self._claim, "spec", "devices", "requests", most=_MAX_REQUESTS)
        found = [self._alternatives(request) for request in requests]
        names = [base_request(one[0].request.name) for one in found]
        if len(set(names)) != len(names):
            raise self._refused(f"two requests have one name among {names}", "name each request once")
        least = sum(min(1 if one.request.every else one.request.count for one in several) for several in found)
        if least > MAX_RESULTS:
            remedy = "spread them over several claims"
            raise self._refused(f"asks for {least} GPUs, a claim holds at most {MAX_RESULTS}", remedy)
        self._check_configs(found)
        return found

    def _alternatives(self, request: Json) -> list[ReadRequest]:
        name = text(request, "name")
        exactly, several = request.get("exactly"), request.get("firstAvailable")
        if not name or "/" in name or bool(exactly) == bool(several):
            what = f"request {name!r:.80} is not one named request with either exactly or firstAvailable"
            raise self._refused(what, _CHECK_CLAIM)
        if several is None or several == []:
            if not isinstance(exactly, dict):
                raise self._refused(f"request {name}: exactly is no object", _CHECK_CLAIM)
            return [self._request(name, exactly)]
        subs = self._objects(request, "firstAvailable", most=_MAX_ALTERNATIVES)
        names = [text(sub, "name") for sub in subs]
        if not all(names) or len(set(names)) != len(names):
            raise self._refused(f"alternatives of request {name} do not have names of their own", _CHECK_CLAIM)
        return [self._request(f"{name}/{sub['name']}", sub) for sub in subs]

    def _request(self, name: str, part: Json) -> ReadRequest:
        subject = f"{self._subject} request {name}"
        device_class = self._class(subject, text(part, "deviceClassName"))
        class_config = _config(subject, dig(device_class, "spec", "config"), name, "FromClass")
        claim_config = _config(subject, dig(self._claim, "spec", "devices", "config"), name, "FromClaim")
        from_class, from_claim = class_config.placement or Placement(), claim_config.placement or Placement()
        requests, admin = _capacities(subject, part), part.get("adminAccess") is True
        if self._allocator == "scheduler":
            class_config, claim_config = scheduler_configs(subject, requests, class_config, claim_config)
        request = DeviceRequest(
            claim=uid_of(self._claim),
            name=name,
            claim_name=full_name(self._claim),
            count=_count(subject, part),
            every=part.get("allocationMode") == "All",
            class_name=text(part, "deviceClassName"),
            requests=requests,
            claim_config=claim_config,
            class_config=class_config,
            keeps_capacity=self._keeps_capacity,
            admin=admin,
            gpu_policy=from_claim.gpu or from_class.gpu or "Spread",
            selector=selector_of(_expressions(subject, device_class, part), subject),
            tolerations=_tolerations(subject, part),
        )
        check_amounts(request)
        return ReadRequest(request=request, from_class=from_class, from_claim=from_claim)

    def _class(self, subject: str, name: str) -> Json:
        device_class = self._find_class(name) if name else None
        if device_class is None:
            what = f"device class {name} does not exist" if name else "names no device class"
            remedy = "create the DeviceClass or name another"
            raise DemandRefused(subject, what, remedy=remedy, code=ReasonCode.CLASS_NOT_FOUND)
        if not is_our_class(device_class):
            what = f"device class {name} is of another driver, and one claim has one allocator"
            raise DemandRefused(subject, what, remedy="put that request into a claim of its own")
        return device_class

    def _check_configs(self, found: Sequence[Sequence[ReadRequest]]) -> None:
        """Refuse what cannot be copied into an allocation, with the grant, whichever alternatives are chosen."""
        names = dict.fromkeys(one.request.class_name for several in found for one in several)
        classes = sum(len(items(self._find_class(name), "spec", "config")) for name in names)
        total = 1 + classes + len(items(self._claim, "spec", "devices", "config"))
        if total > _MAX_CONFIGS:
            what = f"may need {total} configuration entries, an allocation holds {_MAX_CONFIGS}"
            raise self._refused(what, "write fewer entries in the claim, or use fewer classes in it")

    def _objects(self, holder: Json, *path: str, most: int) -> list[Json]:
        found = dig(holder, *path)
        if found is None:
            return []
        if not isinstance(found, list) or not all(isinstance(item, dict) for item in found):
            raise self._refused(f"{path[-1]} is no list of objects", _CHECK_CLAIM)
        if len(found) > most:
            raise self._refused(f"has {len(found)} {path[-1]}, at most {most} are allowed", "use several claims")
        return found

    def _refused(self, what: str, remedy: str) -> DemandRefused:
        return DemandRefused(self._subject, what, remedy=remedy)


def _count(subject: str, part: Json) -> int:
    mode, count = part.get("allocationMode") or "ExactCount", part.get("count")
    if mode == "All":
        return 1
    if mode != "ExactCount":
        remedy = "use ExactCount or All"
        raise DemandRefused(subject, f"allocationMode {mode!r:.80} is not known", remedy=remedy)
    count = 1 if count is None else count
    if isinstance(count, bool) or not isinstance(count, int) or not 1 <= count <= MAX_RESULTS:
        raise DemandRefused(subject, f"count {count!r:.80} is not possible", remedy=f"ask for 1 to {MAX_RESULTS} GPUs")
    return count


def _capacities(subject: str, part: Json) -> Capacities:
    requests = dig(part, "capacity", "requests")
    if requests is not None and not isinstance(requests, dict):
        raise DemandRefused(subject, "capacity.requests is no object", remedy=_CHECK_CLAIM)
    return dict(requests or {})


def _expressions(subject: str, device_class: Json, part: Json) -> list[str]:
    found: list[str] = []
    for holder in (dig(device_class, "spec", "selectors"), part.get("selectors")):
        for selector in holder if isinstance(holder, list) else [] if holder is None else [holder]:
            expression = text(selector, "cel", "expression")
            if not expression:
                # To leave it out would hand out GPUs that somebody meant to exclude.
                code = ReasonCode.SELECTOR_NOT_SUPPORTED
                raise DemandRefused(subject, "has a selector that is no CEL", remedy="use cel.expression", code=code)
            found.append(expression)
    return found


def _tolerations(subject: str, part: Json) -> tuple[Toleration, ...]:
    found: list[Toleration] = []
    tolerations = part.get("tolerations")
    for item in tolerations if isinstance(tolerations, list) else ():
        operator = text(item, "operator") or "Equal"
        if not isinstance(item, dict) or operator not in ("Equal", "Exists"):
            remedy = "use operator Equal or Exists"
            raise DemandRefused(subject, f"toleration {item!r:.80} is not known", remedy=remedy)
        key, value, effect = text(item, "key"), text(item, "value"), text(item, "effect")
        found.append(Toleration(key=key, operator=operator, value=value, effect=effect))
    return tuple(found)


def _config(subject: str, entries: object, request: str, source: Source) -> FractionConfig:
    """Return what the entries for our driver say together about a request, as Prepare reads them later."""
    parsed: list[tuple[Source, FractionConfig]] = []
    for entry in entries if isinstance(entries, list) else ():
        if dig(entry, "opaque", "driver") != DRIVER_NAME:
            continue
        wanted = texts(entry, "requests") if source == "FromClaim" else []
        if wanted and request not in wanted and base_request(request) not in wanted:
            continue
        try:
            parsed.append((source, parse_config(dig(entry, "opaque", "parameters"), source=source)))
        except ConfigInvalid as error:
            raise DemandRefused(subject, f"{error.subject} {error.what}", remedy=error.remedy) from error
    return merge_configs(parsed)

"""Random claims: everything that a request can say, in amounts that now fit and now do not.

What is left out, because kube-scheduler 1.36.3 and we mean something else by it:

* memoryPercent and placement, which it does not know.
* Admin access without amounts of zero. It charges the defaults of capacities that are not named, and wants them free.
* A distinctAttribute over several GPUs of one request. It compares only with the last one of each request.
* allocationMode All where a selected GPU has no room. It gives those that have; we give every selected one or none.
  And All under a constraint that cannot be met: that is an error to it, which ends the search on all other nodes.
* A GPU that is over-committed. It gives nothing more of it, we give what there is of the other amounts, and admin
  access.
* An alternative that no GPU could ever give (more than 100 cores, two slots). It passes over it; we refuse the claim.

Which alternative of a prioritized list is taken is not compared: it depends on which GPUs earlier requests have, and
there it takes the first, and we go by policy.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any, Final

from fracgpu.driver.names import CLASS_FRACTION, CLASS_WHOLE
from fracgpu.driver.quantity import MIB

Json = dict[str, Any]
_OURS: Final = "device.attributes['gpu.fracgpu.dev']"
_CAPACITY: Final = "device.capacity['gpu.fracgpu.dev']"
SELECTORS: Final = (
    f"{_OURS}.productName == 'NVIDIA L40S'",
    f"{_OURS}.productName != 'NVIDIA T4'",
    f"{_OURS}.productName.startsWith('NVIDIA')",
    f"{_OURS}.productName.lowerAscii().contains('a100')",
    f"{_OURS}.productName.matches('^NVIDIA (A|H)[0-9]+$')",
    f"{_OURS}.architecture in ['Ada', 'Ampere', 'Hopper']",
    f"{_OURS}.brand == 'Nvidia' && !{_OURS}.oversubscribed",
    f"{_OURS}.oversubscribed == false",
    f"{_OURS}.physicalMemoryMiB >= 40000",
    f"{_OURS}.physicalMemoryMiB < 50000 || {_OURS}.architecture == 'Hopper'",
    f"{_OURS}.numaNode == 0",
    f"{_OURS}.numaNode >= 0 ? true : false",
    f"{_OURS}.cudaComputeCapability.isGreaterThan(semver('8.0.0'))",
    f"{_OURS}.cudaComputeCapability.compareTo(semver('8.0.0')) >= 0",
    f"{_OURS}.driverVersion.major() >= 580",
    f"{_OURS}.cudaDriverVersion == semver('13.0.0')",
    f"{_CAPACITY}.memory.isGreaterThan(quantity('20Gi'))",
    f"{_CAPACITY}.memory.compareTo(quantity('46068Mi')) >= 0",
    f"{_CAPACITY}.cores.asInteger() > 100",
    f"{_CAPACITY}.slots.isLessThan(quantity('10'))",
    "device.attributes['resource.kubernetes.io'].?pcieRoot.orValue('') == 'pci0000:00'",
    "has(device.attributes['resource.kubernetes.io'].pcieRoot)",
    f"{_OURS}.?tier.orValue('none') == 'none'",
    f"'uuid' in {_OURS}",
    "device.driver == 'gpu.fracgpu.dev' && device.allowMultipleAllocations",
    "device.driver == 'other.example.com'",
    f"{_OURS}.pciBusID.matches('^0000:[0-9a-f][02468ace]')",
    f"cel.bind(ours, {_OURS}, ours.architecture == 'Ada' || ours.architecture == 'Turing')",
    f"['Hopper', 'Ampere'].exists(one, one == {_OURS}.architecture)",
    "!(device.driver == '')",
)
ATTRIBUTES: Final = (
    "gpu.fracgpu.dev/productName",
    "gpu.fracgpu.dev/architecture",
    "gpu.fracgpu.dev/numaNode",
    "gpu.fracgpu.dev/uuid",
    "gpu.fracgpu.dev/oversubscribed",
    "gpu.fracgpu.dev/cudaComputeCapability",
    "resource.kubernetes.io/pcieRoot",
)
TOLERATIONS: Final[Sequence[Json]] = (
    {"operator": "Exists"},
    {"key": "example.com/sold", "operator": "Exists"},
    {"key": "example.com/sold", "operator": "Equal", "value": "yes", "effect": "NoSchedule"},
    {"key": "example.com/sold", "value": "no"},
    {"key": "gpu.fracgpu.dev/unhealthy", "operator": "Exists", "effect": "NoSchedule"},
    {"operator": "Exists", "effect": "NoExecute"},
)
ADMIN: Final = {"memory": "0", "cores": "0", "slots": "0"}


def make_claims(choice: random.Random, name: str, cards: Sequence[int]) -> list[Json]:
    """Return the claims of one pod; `cards` is the memory of the GPUs that there are, in bytes."""
    count = choice.choice((1, 1, 1, 1, 2))
    return [_claim(choice, f"{name}-claim-{index}", cards) for index in range(count)]


def make_claims_for_all(choice: random.Random, name: str, cards: Sequence[int]) -> list[Json]:
    """Return the claims of a pod one of whose requests is for all GPUs; nothing may be taken of those."""
    claims = make_claims(choice, name, cards)
    request = choice.choice(claims[0]["spec"]["devices"]["requests"])
    asks = choice.choice(_alternatives(request))
    asks.pop("count", None)
    asks["allocationMode"] = "All"
    if not asks.get("adminAccess"):
        asks["capacity"] = {"requests": {"memory": f"{min(cards) // MIB // choice.choice((1, 2, 4))}Mi"}}
    for claim in claims:
        claim["spec"]["devices"].pop("constraints", None)
    return claims


def _alternatives(request: Json) -> list[Json]:
    return list(request.get("firstAvailable") or [request["exactly"]])


def _claim(choice: random.Random, name: str, cards: Sequence[int]) -> Json:
    requests = [_request(choice, f"r{index}", cards) for index in range(choice.choice((1, 1, 1, 2, 2, 3)))]
    devices: Json = {"requests": requests}
    if choice.random() < 0.35:
        devices["constraints"] = [_constraint(choice, requests) for _ in range(choice.choice((1, 1, 2)))]
        if any("distinctAttribute" in constraint for constraint in devices["constraints"]):
            for asks in (one for request in requests for one in _alternatives(request)):
                asks.pop("count", None)
    return {
        "apiVersion": "resource.k8s.io/v1",
        "kind": "ResourceClaim",
        "metadata": {"name": name},
        "spec": {"devices": devices},
    }


def _request(choice: random.Random, name: str, cards: Sequence[int]) -> Json:
    if choice.random() < 0.25:
        count = choice.choice((2, 2, 3, 4))
        return {"name": name, "firstAvailable": [{"name": f"s{at}", **_asks(choice, cards)} for at in range(count)]}
    asks = _asks(choice, cards)
    if choice.random() < 0.07:
        asks |= {"adminAccess": True, "capacity": {"requests": dict(ADMIN)}}
    elif choice.random() < 0.02:
        asks.setdefault("capacity", {}).setdefault("requests", {})["cores"] = "101"
    elif choice.random() < 0.02:
        asks.setdefault("capacity", {}).setdefault("requests", {})["slots"] = "2"
    return {"name": name, "exactly": asks}


def _asks(choice: random.Random, cards: Sequence[int]) -> Json:
    """Return what `exactly` and an alternative have in common."""
    asks: Json = {"deviceClassName": choice.choice((CLASS_FRACTION,) * 6 + (CLASS_WHOLE,))}
    capacity = _capacity(choice, cards)
    if capacity:
        asks["capacity"] = {"requests": capacity}
    selectors = choice.sample(SELECTORS, choice.choice((0, 0, 0, 0, 1, 2)))
    if selectors:
        asks["selectors"] = [{"cel": {"expression": one}} for one in selectors]
    if choice.random() < 0.2:
        asks["tolerations"] = choice.sample(TOLERATIONS, choice.choice((1, 2)))
    mode = choice.random()
    if mode < 0.25:
        asks |= {"allocationMode": "ExactCount", "count": choice.choice((2, 2, 3))}
    return asks


def _capacity(choice: random.Random, cards: Sequence[int]) -> Json:
    asked: Json = {}
    if choice.random() < 0.85:
        asked["memory"] = _memory(choice, choice.choice(cards))
    if choice.random() < 0.4:
        asked["cores"] = choice.choice(("0", "10", "20", "30", "30", "50", "80", "100"))
    if choice.random() < 0.1:
        asked["slots"] = "1"
    return asked


def _memory(choice: random.Random, card: int) -> str:
    """Return an amount, now in the middle, now at an edge of a card, in one of the forms that a Quantity has."""
    mib = card // MIB
    form = choice.randrange(8)
    if form == 0:
        return f"{choice.randrange(1, 12)}Gi"
    if form == 1:
        return f"{choice.randrange(500, 12000)}M"
    if form == 2:
        return str(choice.randrange(1, card // 2))
    if form == 3:
        return f"{choice.choice((mib, mib + 1, mib - 1))}Mi"
    if form == 4:
        return choice.choice(("1.5Gi", "0.25Gi", "2e9", "1G", "1500000k", "4000000000000m"))
    return f"{max(1, mib // choice.choice((3, 4, 6, 8, 16)) + choice.choice((-1, 0, 0, 1)))}Mi"


def _constraint(choice: random.Random, requests: Sequence[Json]) -> Json:
    kind = choice.choice(("matchAttribute", "matchAttribute", "distinctAttribute"))
    constraint: Json = {kind: choice.choice(ATTRIBUTES)}
    if choice.random() < 0.6:
        names = [
            f"{one['name']}/{sub['name']}" if sub else one["name"]
            for one in requests
            for sub in [choice.choice([{}, *one["firstAvailable"]]) if "firstAvailable" in one else {}]
        ]
        constraint["requests"] = choice.sample(names, choice.randrange(1, len(names) + 1))
    return constraint

"""What the expressions of the shipped admission policies mean, in Python, by their text.

CEL is not evaluated here. Whoever changes an expression in deploy/ changes its meaning here, and tests/cluster compares
the two: the same requests to the emulator and to a real API server, the same answers.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, Final

from fracgpu.driver.errors import QuantityInvalid
from fracgpu.driver.names import API_VERSION, CLASS_FRACTION, CLASS_WHOLE, CONFIG_KIND, DRIVER_NAME
from fracgpu.driver.quantity import parse_quantity
from fracgpu.sim.api.identity import User
from fracgpu.sim.api.objects import JsonObject, dig, metadata
from fracgpu.sim.api.rawjson import RawJson
from fracgpu.sim.api.resources import DEVICE_CLASSES, RESOURCE_CLAIM_TEMPLATES, Resource
from fracgpu.sim.api.rules_deviceclaim import alternatives


@dataclass(frozen=True, slots=True)
class Review:
    """One write that is to be admitted: who, CREATE, UPDATE or DELETE, and the object (the old one for DELETE).

    `params` is the policy's parameter by which it is judged, empty for a policy without any.
    """

    user: User
    operation: str
    resource: Resource
    obj: JsonObject
    params: JsonObject = field(default_factory=dict)


Test = Callable[[Review], bool]
Text = Callable[[Review], str]
_PLUGIN: Final = "system:serviceaccount:fracgpu-system:fracgpu-kubeletplugin"
_KEYS: Final = ("memory", "cores", "slots")
_ENVELOPE: Final = ("apiVersion", "kind")
_CLAIM_FIELDS: Final = ("memory", "memoryPercent", "cores", "weight", "placement", "utilizationView")
_CLASS_FIELDS: Final = ("coresPolicy", "burstCores", "enforcement", "strict", "oversubscribe", "onViolation")


def _devices(review: Review) -> JsonObject:
    """Return spec.devices of a claim or template; a class has its configuration in the spec itself."""
    spec = review.obj.get("spec") or {}
    if review.resource is DEVICE_CLASSES:
        return dict(spec)
    return dict((spec.get("spec") or {} if review.resource is RESOURCE_CLAIM_TEMPLATES else spec).get("devices") or {})


def _asked(review: Review, *, charged: bool = False) -> Iterator[JsonObject]:
    """Yield capacity.requests of all that asks for our devices; with `charged` of what is not admin access."""
    for request in _devices(review).get("requests") or []:
        for part in alternatives(request):
            ours = part.get("deviceClassName") in (CLASS_FRACTION, CLASS_WHOLE)
            if ours and not (charged and part.get("adminAccess")):
                yield dig(part, "capacity", "requests") or {}


def _strange(review: Review) -> list[str]:
    return [key for amounts in _asked(review) for key in amounts if key not in _KEYS]


def _pays(review: Review) -> bool:
    amounts = [(key, value) for asked in _asked(review, charged=True) for key, value in asked.items()]
    return all(parse_quantity(value) > 0 for key, value in amounts if key in ("memory", "slots"))


def _configured(review: Review) -> list[JsonObject]:
    """Return the configurations for our driver; a mutation meets them before anybody has validated them."""
    entries = [entry.get("opaque") or {} for entry in _devices(review).get("config") or []]
    return [entry for entry in entries if entry.get("driver") == DRIVER_NAME]


def _parameters(review: Review) -> list[JsonObject]:
    return [entry["parameters"].value() for entry in _configured(review)]


def _is_ours(parameters: JsonObject) -> bool:
    return parameters.get("apiVersion") == API_VERSION and parameters.get("kind") == CONFIG_KIND


def _names_memory(parameters: JsonObject) -> bool:
    memory = parameters.get("memory")
    try:
        return not isinstance(memory, str) or parse_quantity(memory) > 0
    except QuantityInvalid:
        return True


def _unknown(review: Review) -> list[str]:
    known = {*_ENVELOPE, *_CLAIM_FIELDS, *(_CLASS_FIELDS if review.resource is DEVICE_CLASSES else ())}
    return [key for parameters in _parameters(review) for key in parameters if key not in known]


def _canonicalise(review: Review) -> None:
    """Encode anew what the API server decodes for a mutation: sorted, compact; and leave the annotation."""
    metadata(review.obj).setdefault("annotations", {})["gpu.fracgpu.dev/parameters"] = "canonical"
    _canonical_below(review.obj)


def _canonical_below(tree: Any) -> None:
    for key, value in list(tree.items() if isinstance(tree, dict) else enumerate(tree)):
        if isinstance(value, RawJson):
            tree[key] = value.canonical()
        elif isinstance(value, (dict, list)):
            _canonical_below(value)


def _listed(names: tuple[str, ...]) -> str:
    return "[" + ", ".join(f"'{name}'" for name in names) + "]"


def _keys_outside(names: tuple[str, ...]) -> str:
    return f"variables.parameters.map(p, p.map(k, k)).flatten().filter(k, !(k in {_listed(names)}))"


_OURS: Final = "['gpu.fracgpu.dev', 'whole.gpu.fracgpu.dev']"
_DRIVER_IS_OURS: Final = "c.?opaque.?driver.orValue('') == 'gpu.fracgpu.dev'"
# What the texts below stand on: they mean what the functions above do.
VARIABLES: Final = frozenset(
    {
        ("node", "request.userInfo.extra[?'authentication.kubernetes.io/node-name'][0].orValue('')"),
        ("slice", "request.operation == 'DELETE' ? oldObject : object"),
        (
            "devices",
            "(object.kind == 'ResourceClaimTemplate' ? object.spec.spec : object.spec).?devices.orValue({})",
        ),
        ("requests", "variables.devices.?requests.orValue(null) == null ? [] : variables.devices.requests"),
        (
            "exact",
            f"variables.requests.filter(r, has(r.exactly) && r.exactly.deviceClassName in {_OURS})",
        ),
        (
            "alternatives",
            "variables.requests.filter(r, has(r.firstAvailable)).map(r, r.firstAvailable)"
            f".flatten() .filter(q, q.deviceClassName in {_OURS})",
        ),
        (
            "asked",
            "variables.exact.map(r, r.exactly.?capacity.?requests.orValue({})) + "
            "variables.alternatives.map(q, q.?capacity.?requests.orValue({}))",
        ),
        (
            "charged",
            "variables.exact.filter(r, !r.exactly.?adminAccess.orValue(false)) "
            ".map(r, r.exactly.?capacity.?requests.orValue({})) + "
            "variables.alternatives.map(q, q.?capacity.?requests.orValue({}))",
        ),
        (
            "strange",
            f"variables.asked.map(a, a.map(k, k)).flatten().filter(k, !(k in {_listed(_KEYS)}))",
        ),
        (
            "parameters",
            f"variables.devices.?config.orValue([]).filter(c, {_DRIVER_IS_OURS}) .map(c, c.opaque.parameters)",
        ),
        ("parameters", f"object.spec.?config.orValue([]).filter(c, {_DRIVER_IS_OURS}) .map(c, c.opaque.parameters)"),
        ("unknown", _keys_outside((*_ENVELOPE, *_CLAIM_FIELDS))),
        ("unknown", _keys_outside((*_ENVELOPE, *_CLAIM_FIELDS, *_CLASS_FIELDS))),
    }
)
TESTS: Final[dict[str, Test]] = {
    f"request.userInfo.username == '{_PLUGIN}'": lambda review: review.user.name == _PLUGIN,
    "variables.node != ''": lambda review: bool(review.user.node_name),
    "variables.slice.spec.?nodeName.orValue('') == variables.node": lambda review: (
        (dig(review.obj, "spec", "nodeName") or "") == review.user.node_name
    ),
    "variables.slice.spec.driver == 'gpu.fracgpu.dev'": lambda review: (
        dig(review.obj, "spec", "driver") == "gpu.fracgpu.dev"
    ),
    "size(variables.strange) == 0": lambda review: not _strange(review),
    "variables.charged.all(a, a.all(k, !(k in ['memory', 'slots']) || "
    "quantity(a[k]).isGreaterThan(quantity('0'))))": _pays,
    "variables.parameters.all(p, p.?apiVersion.orValue('') == 'gpu.fracgpu.dev/v1alpha1' && "
    "p.?kind.orValue('') == 'FractionConfig')": lambda review: all(map(_is_ours, _parameters(review))),
    "size(variables.unknown) == 0": lambda review: not _unknown(review),
    "size(variables.charged) == 0 || variables.parameters.all(p, !has(p.memory) || type(p.memory) != string || "
    "!isQuantity(p.memory) || quantity(p.memory).isGreaterThan(quantity('0')))": lambda review: (
        not list(_asked(review, charged=True)) or all(map(_names_memory, _parameters(review)))
    ),
    "(object.kind == 'ResourceClaimTemplate' ? object.spec.spec.?devices.?config : object.kind == 'ResourceClaim' ? "
    "object.spec.?devices.?config : object.spec.?config) .orValue([]).exists(c, "
    f"{_DRIVER_IS_OURS})": lambda review: bool(_configured(review)),
}
MESSAGES: Final[dict[str, Text]] = {
    "'capacity.requests of gpu.fracgpu.dev: no such key: ' + variables.strange.join(', ') + "
    "'; write memory, cores or slots, without a domain'": lambda review: (
        f"capacity.requests of gpu.fracgpu.dev: no such key: {', '.join(_strange(review))}"
        "; write memory, cores or slots, without a domain"
    ),
    "'FractionConfig of a claim: no such field: ' + variables.unknown.join(', ') + '; write memory, memoryPercent, "
    "cores, weight, placement or utilizationView; the rest is for the DeviceClass'": lambda review: (
        f"FractionConfig of a claim: no such field: {', '.join(_unknown(review))}; write memory, memoryPercent, "
        "cores, weight, placement or utilizationView; the rest is for the DeviceClass"
    ),
    "'FractionConfig of a class: no such field: ' + variables.unknown.join(', ') + "
    "'; write memory, memoryPercent, cores, weight, placement, utilizationView, coresPolicy, burstCores, ' + "
    "'enforcement, strict, oversubscribe or onViolation'": lambda review: (
        f"FractionConfig of a class: no such field: {', '.join(_unknown(review))}; write memory, memoryPercent, cores, "
        "weight, placement, utilizationView, coresPolicy, burstCores, enforcement, strict, oversubscribe or onViolation"
    ),
}
MUTATIONS: Final[dict[str, Callable[[Review], None]]] = {
    'Object{metadata: Object.metadata{annotations: {"gpu.fracgpu.dev/parameters": "canonical"}}}': _canonicalise,
}

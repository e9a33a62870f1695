"""What the expressions of the quota policy mean, in Python, by their text; see policy_meanings.py.

The policy is asked once for each FractionQuota of the claim's namespace, which is then the review's `params`.
"""

from __future__ import annotations

from collections.abc import Iterator
from decimal import Decimal
from typing import Final

from fracgpu.driver.names import CAPACITIES, CAPACITY_MEMORY, CAPACITY_SLOTS, CLASS_FRACTION
from fracgpu.driver.quantity import MIB, parse_quantity
from fracgpu.sim.api.objects import JsonObject, dig, name_of
from fracgpu.sim.api.policy_meanings import Review, Test, Text
from fracgpu.sim.api.rules_deviceclaim import alternatives

_MOST: Final = 2**50
_MOST_DEVICES: Final = 33
_NO_STATUS: Final = (
    "has no status yet, so what is left of it is not known; the controller of fracgpu writes it: see whether that "
    "runs, and try again"
)
_UNSTATED: Final = (
    "so claims have to say how much they want: state it in capacity.requests of every request, in whole numbers, and "
    "ask for a count of devices, not for all"
)


def _counted(review: Review) -> list[list[JsonObject]]:
    """Return for each request its alternatives that count."""
    requests = dig(review.obj, "spec", "devices", "requests") or []
    found = [[part for part in alternatives(request) if _counts(part)] for request in requests]
    return [parts for parts in found if parts]


def _counts(part: JsonObject) -> bool:
    name = str(part.get("deviceClassName"))
    ours = name == CLASS_FRACTION or name.endswith(f".{CLASS_FRACTION}")
    return ours and not part.get("adminAccess")


def _stated(part: JsonObject) -> JsonObject:
    return dig(part, "capacity", "requests") or {}


def _unbounded(review: Review) -> list[str]:
    parts = [part for alternative in _counted(review) for part in alternative]
    if any(part.get("allocationMode") == "All" for part in parts):
        return list(CAPACITIES)
    return [name for name in CAPACITIES if any(_is_unknown(_stated(part), name) for part in parts)]


def _is_unknown(stated: JsonObject, name: str) -> bool:
    if name not in stated:
        return name == CAPACITY_MEMORY
    return not _is_whole(parse_quantity(stated[name]))


def _is_whole(amount: Decimal) -> bool:
    return amount == amount.to_integral_value()


def _asked(review: Review, name: str) -> int:
    return sum(max(_amount(part, name) for part in parts) for parts in _counted(review))


def _amount(part: JsonObject, name: str) -> int:
    least = 1 if name == CAPACITY_SLOTS else 0
    exact = parse_quantity(_stated(part).get(name, least))
    amount = min(max(int(exact) if _is_whole(exact) else least, least), _MOST)
    count = min(int(part.get("count") or 1), _MOST_DEVICES)
    return count * (-(-amount // MIB) * MIB if name == CAPACITY_MEMORY else amount)


def _hard(review: Review) -> JsonObject:
    return dict(review.params["spec"]["hard"])


def _used(review: Review, name: str) -> int:
    return int(parse_quantity((dig(review.params, "status", "used") or {}).get(name, 0)))


def _unstated(review: Review) -> list[str]:
    return [name for name in _unbounded(review) if name in _hard(review)]


def _scarce(review: Review) -> list[str]:
    return [name for name in CAPACITIES if name in _hard(review) and _is_scarce(review, name)]


def _is_scarce(review: Review, name: str) -> bool:
    asked = _asked(review, name)
    return asked > 0 and parse_quantity(_hard(review)[name]) < asked + _used(review, name)


def _passes(review: Review) -> bool:
    return not _counted(review) or dig(review.params, "status", "enforcedAt") == "Allocation"


def _bad_conditions(review: Review) -> Iterator[JsonObject]:
    for condition in dig(review.params, "status", "conditions") or []:
        if condition["type"] == "Valid" and condition["status"] == "False":
            yield condition


def _say_scarce(review: Review) -> str:
    return f"{_subject(review)} has too little left: " + "; ".join(_line(review, name) for name in _scarce(review))


def _line(review: Review, name: str) -> str:
    numbers = (_asked(review, name), _used(review, name), int(parse_quantity(_hard(review)[name])))
    asked, used, hard = (f"{one // MIB}Mi" if name == CAPACITY_MEMORY else str(one) for one in numbers)
    return f"{name}: asked {asked}, used {used} of {hard}"


def _subject(review: Review) -> str:
    return f"FractionQuota {name_of(review.params)}"


# What the texts below stand on: they mean what the functions above do.
VARIABLES: Final = frozenset(
    {
        (
            "requests",
            "object.spec.?devices.?requests.orValue(null) == null ? [] : object.spec.devices.requests",
        ),
        (
            "counted",
            "variables.requests.map(r, (has(r.exactly) ? [dyn(r.exactly)] : r.firstAvailable.map(q, "
            "dyn(q))).filter(q, (q.deviceClassName == 'gpu.fracgpu.dev' || "
            "q.deviceClassName.endsWith('.gpu.fracgpu.dev')) && "
            "!q.?adminAccess.orValue(false))).filter(parts, size(parts) > 0)",
        ),
        (
            "stated",
            "variables.counted.flatten().map(q, q.?capacity.?requests.orValue({}))",
        ),
        (
            "unbounded",
            "variables.counted.flatten().exists(q, q.?allocationMode.orValue('') == 'All') ? ['memory', "
            "'cores', 'slots'] : ['memory', 'cores', 'slots'].filter(k, variables.stated.exists(a, k in a ? "
            "!quantity(a[k]).isInteger() : k == 'memory'))",
        ),
        (
            "asked",
            "{'memory': variables.counted.map(parts, parts.map(q, [int(q.?count.orValue(1)), 33].min() * "
            "1048576 * (([[int(q.?capacity.?requests.?memory.optMap(m, quantity(m).isInteger() ? "
            "quantity(m).asInteger() : 0).orValue(0)), 0].max(), 1125899906842624].min() + 1048575) / "
            "1048576)).max()).sum(), 'cores': variables.counted.map(parts, parts.map(q, "
            "[int(q.?count.orValue(1)), 33].min() * [[int(q.?capacity.?requests.?cores.optMap(c, "
            "quantity(c).isInteger() ? quantity(c).asInteger() : 0).orValue(0)), 0].max(), "
            "1125899906842624].min()).max()).sum(), 'slots': variables.counted.map(parts, parts.map(q, "
            "[int(q.?count.orValue(1)), 33].min() * [[int(q.?capacity.?requests.?slots.optMap(n, "
            "quantity(n).isInteger() ? quantity(n).asInteger() : 1).orValue(1)), 1].max(), "
            "1125899906842624].min()).max()).sum()}",
        ),
        (
            "hard",
            "params.spec.hard",
        ),
        (
            "used",
            "{'memory': quantity(string(params.?status.?used.?memory.orValue('0'))).asInteger(), 'cores': "
            "quantity(string(params.?status.?used.?cores.orValue('0'))).asInteger(), 'slots': "
            "quantity(string(params.?status.?used.?slots.orValue('0'))).asInteger()}",
        ),
        (
            "unstated",
            "variables.unbounded.filter(k, k in variables.hard)",
        ),
        (
            "scarce",
            "['memory', 'cores', 'slots'].filter(k, k in variables.hard && variables.asked[k] > 0 && "
            "quantity(string(variables.hard[k])).isLessThan(quantity(string(variables.asked[k] + "
            "variables.used[k]))))",
        ),
        (
            "passes",
            "size(variables.counted) == 0 || params.?status.?enforcedAt.orValue('') == 'Allocation'",
        ),
    }
)
TESTS: Final[dict[str, Test]] = {
    "variables.passes || params.?status.?enforcedAt.hasValue()": lambda review: (
        _passes(review) or dig(review.params, "status", "enforcedAt") is not None
    ),
    "variables.passes || !params.?status.?conditions.orValue([]).exists(c, c.type == 'Valid' && "
    "c.status == 'False')": lambda review: _passes(review) or not list(_bad_conditions(review)),
    "variables.passes || size(variables.unstated) == 0": lambda review: _passes(review) or not _unstated(review),
    "variables.passes || size(variables.unstated) > 0 || size(variables.scarce) == 0": lambda review: (
        _passes(review) or bool(_unstated(review)) or not _scarce(review)
    ),
}
MESSAGES: Final[dict[str, Text]] = {
    "'FractionQuota ' + params.metadata.name + ' has no status yet, so what is left of it is not "
    "known; the controller of fracgpu writes it: see whether that runs, and try again'": lambda review: (
        f"{_subject(review)} {_NO_STATUS}"
    ),
    "'FractionQuota ' + params.metadata.name + ' cannot be understood: ' + "
    "params.status.conditions.filter(c, c.type == 'Valid').map(c, c.?message.orValue('see its "
    "conditions')).join('; ')": lambda review: (
        f"{_subject(review)} cannot be understood: "
        + "; ".join(one.get("message", "see its conditions") for one in _bad_conditions(review))
    ),
    "'FractionQuota ' + params.metadata.name + ' limits ' + variables.unstated.join(', ') + ', so "
    "claims have to say how much they want: state it in capacity.requests of every request, in whole "
    "numbers, and ask for a count of devices, not for all'": lambda review: (
        f"{_subject(review)} limits {', '.join(_unstated(review))}, {_UNSTATED}"
    ),
    "'FractionQuota ' + params.metadata.name + ' has too little left: ' + variables.scarce.map(k, k "
    "== 'memory' ? 'memory: asked ' + string(variables.asked[k] / 1048576) + 'Mi, used ' + "
    "string(variables.used[k] / 1048576) + 'Mi of ' + "
    "string(int(quantity(string(variables.hard[k])).asApproximateFloat() / 1048576.0)) + 'Mi' : k + "
    "': asked ' + string(variables.asked[k]) + ', used ' + string(variables.used[k]) + ' of ' + "
    "string(int(quantity(string(variables.hard[k])).asApproximateFloat()))).join('; ')": _say_scarce,
}

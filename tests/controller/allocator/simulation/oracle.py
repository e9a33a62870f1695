"""What is given away of each GPU, added up from the raw JSON of all claims, by nothing of the product's code."""

from __future__ import annotations

from typing import Any

Json = dict[str, Any]
_SUFFIXES = {"Ki": 1 << 10, "Mi": 1 << 20, "Gi": 1 << 30, "Ti": 1 << 40}


def quantity(text: str | int) -> int:
    """Return a whole quantity with a binary suffix or none."""
    value = str(text)
    for suffix, factor in _SUFFIXES.items():
        if value.endswith(suffix):
            return int(value.removesuffix(suffix)) * factor
    return int(value)


def given_away(claims: list[Json]) -> dict[tuple[str, str], list[int]]:
    """Return memory in bytes, cores and slots that allocations have of each GPU, by pool and device."""
    sums: dict[tuple[str, str], list[int]] = {}
    for claim in claims:
        allocation = (claim.get("status") or {}).get("allocation")
        if not allocation:
            continue
        (grant,) = [
            entry["opaque"]["parameters"]
            for entry in allocation["devices"]["config"]
            if entry["opaque"]["parameters"].get("kind") == "FractionGrant"
        ]
        for ordinal, result in enumerate(allocation["devices"]["results"]):
            (granted,) = [one for one in grant["results"] if one["ordinal"] == ordinal]
            amounts = [granted["memoryBytes"], granted["cores"], granted["slots"]]
            consumed = result.get("consumedCapacity")
            if consumed is not None:
                assert amounts == [quantity(consumed[name]) for name in ("memory", "cores", "slots")]
            total = sums.setdefault((result["pool"], result["device"]), [0, 0, 0])
            for position, amount in enumerate(amounts):
                total[position] += amount
    return sums


def overdrawn(claims: list[Json], slices: list[Json]) -> list[str]:
    """Return, in words, every GPU of which more is given away than it has."""
    capacity = {
        (item["spec"]["pool"]["name"], device["name"]): [
            quantity(device["capacity"][name]["value"]) for name in ("memory", "cores", "slots")
        ]
        for item in slices
        for device in item["spec"]["devices"]
    }
    return [
        f"{key}: {amounts} of {capacity[key]}"
        for key, amounts in given_away(claims).items()
        if key in capacity and any(one > most for one, most in zip(amounts, capacity[key], strict=True))
    ]

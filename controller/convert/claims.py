"""ResourceClaimTemplates for what containers ask."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any, Final

from fracgpu.controller.convert.ask import Ask
from fracgpu.controller.convert.edits import Json
from fracgpu.controller.convert.options import ConvertOptions
from fracgpu.controller.convert.placement import Wishes
from fracgpu.driver.config import WHOLE, FractionConfig
from fracgpu.driver.names import (
    ATTR_NUMA_NODE,
    ATTR_PHYSICAL_MEMORY_MIB,
    CAPACITY_CORES,
    CAPACITY_MEMORY,
    CLASS_FRACTION,
    CLASS_WHOLE,
    DRIVER_NAME,
)
from fracgpu.driver.parameters import canonical_json

_FULL: Final = 100
_HASH_DIGITS: Final = 8
MAX_ALTERNATIVES: Final = 8
"""Alternatives of one request; a limit of the API."""


def build_template(asks: Mapping[str, Ask], wishes: Wishes, options: ConvertOptions, namespace: str | None) -> Json:
    """Return the template of a claim with one request per entry of `asks`, by request name.

    Its name says what is in it and is derived from all of it, since a template can not be changed: other content is
    another template, and equal content is the same one wherever it is used.
    """
    devices: Json = {"requests": [_request(name, ask, wishes, options) for name, ask in asks.items()]}
    constraints = [
        {"requests": [name], "matchAttribute": f"{DRIVER_NAME}/{ATTR_NUMA_NODE}"}
        for name, ask in asks.items()
        if wishes.same_numa and ask.count > 1
    ]
    if constraints:
        devices["constraints"] = constraints
    config = _config(asks, wishes) if options.allocator == "controller" else []
    if config:
        devices["config"] = config
    metadata: Json = {"name": _name(asks, devices)}
    if namespace is not None:
        metadata["namespace"] = namespace
    return {
        "apiVersion": "resource.k8s.io/v1",
        "kind": "ResourceClaimTemplate",
        "metadata": metadata,
        "spec": {"spec": {"devices": devices}},
    }


def needs_cards(ask: Ask) -> bool:
    """Tell whether kube-scheduler can only be asked for this card size by card size."""
    return ask.memory_percent not in (None, _FULL)


def percent_of_card(card_mib: int, percent: int) -> int:
    """Return a percentage of a card's memory, both in MiB, rounded down as our controller and HAMi do."""
    return card_mib * percent // _FULL


def _request(name: str, ask: Ask, wishes: Wishes, options: ConvertOptions) -> Json:
    if options.allocator == "controller":
        return {"name": name, "exactly": _part(ask, wishes.selectors, {})}
    cores = {CAPACITY_CORES: str(ask.cores)} if ask.cores else {}
    if ask.memory_percent is None or not needs_cards(ask):
        # Without memory it is all of the card's: the default of the published capacity.
        memory = {CAPACITY_MEMORY: f"{ask.memory_mib}Mi"} if ask.memory_mib is not None else {}
        return {"name": name, "exactly": _part(ask, wishes.selectors, {**memory, **cores})}
    alternatives = []
    for card in options.card_mib:
        amount = percent_of_card(card, ask.memory_percent)
        if amount:
            part = _part(ask, (_of_size(card), *wishes.selectors), {CAPACITY_MEMORY: f"{amount}Mi", **cores})
            alternatives.append({"name": f"m{card}", **part})
    return {"name": name, "firstAvailable": alternatives}


def _of_size(card_mib: int) -> str:
    return f"device.attributes['{DRIVER_NAME}'].?{ATTR_PHYSICAL_MEMORY_MIB}.orValue(0) == {card_mib}"


def _part(ask: Ask, selectors: Sequence[str], amounts: Mapping[str, str]) -> Json:
    part: Json = {"deviceClassName": CLASS_WHOLE if ask.whole else CLASS_FRACTION}
    if ask.count > 1:
        part["count"] = ask.count
    if selectors:
        part["selectors"] = [{"cel": {"expression": expression}} for expression in selectors]
    if amounts:
        part["capacity"] = {"requests": dict(amounts)}
    return part


def _config(asks: Mapping[str, Ask], wishes: Wishes) -> list[Json]:
    """Return the configuration entries: one for all requests that say the same."""
    said: dict[bytes, tuple[dict[str, Any], list[str]]] = {}
    for name, ask in asks.items():
        config = _fraction(ask, wishes)
        if config != FractionConfig():
            parameters = dict(sorted(config.to_parameters().items()))
            said.setdefault(canonical_json(parameters), (parameters, []))[1].append(name)
    entries = []
    for parameters, names in said.values():
        about: Json = {} if len(names) == len(asks) else {"requests": names}
        entries.append({**about, "opaque": {"driver": DRIVER_NAME, "parameters": parameters}})
    return entries


def _fraction(ask: Ask, wishes: Wishes) -> FractionConfig:
    if ask.whole:
        # The class says that it is all of the memory.
        return FractionConfig(placement=wishes.placement)
    memory = f"{ask.memory_mib}Mi" if ask.memory_mib is not None else WHOLE
    return FractionConfig(
        memory=None if ask.memory_percent is not None else memory,
        memory_percent=ask.memory_percent,
        cores=ask.cores or None,
        placement=wishes.placement,
    )


def _name(asks: Mapping[str, Ask], devices: Json) -> str:
    digest = hashlib.sha256(canonical_json(devices)).hexdigest()[:_HASH_DIGITS]
    if len(asks) > 1:
        return f"gpus-{digest}"
    ask = next(iter(asks.values()))
    words = ["gpu"]
    if ask.count > 1:
        words.append(f"{ask.count}x")
    if ask.memory_mib is not None:
        words.append(f"{ask.memory_mib}mi")
    elif ask.memory_percent is not None:
        words.append(f"{ask.memory_percent}pct")
    else:
        words.append("whole")
    if ask.cores:
        words.append(f"{ask.cores}c")
    return "-".join((*words, digest))

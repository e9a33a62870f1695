"""Which classes and claims are for our driver.

A DeviceClass says with CEL which devices it means, so what it means cannot be read off it for certain. A class counts
as ours if it asks for our driver by name or has configuration for it. One that selects every device there is, without
naming us, is not ours: kube-scheduler allocates for it.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Final

from fracgpu.controller.objects.facts import Json, items, text
from fracgpu.driver.names import DRIVER_NAME

ClassLookup = Callable[[str], Json | None]
"""Finds a DeviceClass by name, None where there is none."""

_NAMED: Final = re.compile(rf"""(['"]){re.escape(DRIVER_NAME)}\1""")
_EXCLUDED: Final = re.compile(rf"""device\.driver\s*!=\s*(['"]){re.escape(DRIVER_NAME)}\1""")


def is_ours(claim: Json, find_class: ClassLookup) -> bool:
    """Tell whether a claim is for our allocator: one of its classes is ours, or does not exist. Never raises.

    A claim whose class is missing counts as ours, because then nobody else says so in words.
    """
    classes = [find_class(name) for name in class_names_of(claim)]
    return any(item is None or is_our_class(item) for item in classes)


def class_names_of(claim: Json) -> list[str]:
    """Return the device classes that a claim names, alternatives included, each once, in the claim's order."""
    names: list[str] = []
    for request in items(claim, "spec", "devices", "requests"):
        parts = [request.get("exactly"), *items(request, "firstAvailable")]
        names += [text(part, "deviceClassName") for part in parts if isinstance(part, dict)]
    return list(dict.fromkeys(names))


def is_our_class(device_class: Json) -> bool:
    """Tell whether a DeviceClass selects our driver by name, or configures it. Never raises."""
    expressions = [text(item, "cel", "expression") for item in items(device_class, "spec", "selectors")]
    selected = any(_NAMED.search(_EXCLUDED.sub("", expression)) for expression in expressions)
    return selected or any(
        text(item, "opaque", "driver") == DRIVER_NAME for item in items(device_class, "spec", "config")
    )

"""Pods as users of device plugins write them, and what a translated one asks for."""

import re
from typing import Any

from fracgpu.controller.convert.convert import Conversion, convert
from fracgpu.controller.convert.edits import apply_edits
from fracgpu.controller.convert.options import ConvertOptions
from fracgpu.driver.amounts import Amounts, requested_amounts
from fracgpu.driver.config import FractionConfig, parse_config
from fracgpu.driver.quantity import MIB

Json = dict[str, Any]
CONTROLLER = ConvertOptions()
WHOLE_CLASS = FractionConfig(memory="Whole")


def container(name: str = "main", limits: Json | None = None, **more: Any) -> Json:
    resources = {"resources": {"limits": limits}} if limits is not None else {}
    return {"name": name, "image": "x", **resources, **more}


def pod(*containers: Json, annotations: Json | None = None, name: str = "p", **spec: Any) -> Json:
    meta: Json = {"name": name}
    if annotations is not None:
        meta["annotations"] = annotations
    return {"apiVersion": "v1", "kind": "Pod", "metadata": meta, "spec": {"containers": list(containers), **spec}}


def translated(obj: Json, options: ConvertOptions = CONTROLLER) -> tuple[Json, Json, list[str]]:
    """Return the object afterwards, its template and the messages; there must be a template."""
    conversion = convert(obj, options)
    assert conversion.template is not None, messages(conversion)
    return apply_edits(obj, conversion.edits), conversion.template, messages(conversion)


def messages(conversion: Conversion) -> list[str]:
    return [finding.message for finding in conversion.findings]


def refusals(obj: Json, options: ConvertOptions = CONTROLLER) -> list[str]:
    """Return why the object is left as it is."""
    conversion = convert(obj, options)
    assert conversion.edits == ()
    assert conversion.template is None
    return [message for message in messages(conversion) if message.startswith("not translated: ")]


def devices_of(template: Json) -> Json:
    devices: Json = template["spec"]["spec"]["devices"]
    return devices


def request_of(template: Json, name: str = "gpu") -> Json:
    found: Json = next(item for item in devices_of(template)["requests"] if item["name"] == name)
    return found


def given(template: Json, card_mib: int, name: str = "gpu") -> tuple[int, Amounts] | None:
    """Return how many GPUs of a size a request gets, and what of each; None if it takes none of that size."""
    request = request_of(template, name)
    part = request.get("exactly") or _alternative(request["firstAvailable"], card_mib)
    if part is None:
        return None
    claim = FractionConfig()
    for entry in devices_of(template).get("config", []):
        if name in entry.get("requests", [name]):
            claim = parse_config(entry["opaque"]["parameters"], source="FromClaim")
    amounts = requested_amounts(
        subject="a test",
        physical_memory_bytes=card_mib * MIB,
        keeps_capacity=True,
        requests=part.get("capacity", {}).get("requests", {}),
        claim_config=claim,
        class_config=WHOLE_CLASS if part["deviceClassName"].startswith("whole.") else FractionConfig(),
    )
    return part.get("count", 1), amounts


def _alternative(parts: list[Json], card_mib: int) -> Json | None:
    for part in parts:
        sizes = [
            re.search(r"physicalMemoryMiB\.orValue\(0\) == (\d+)$", s["cel"]["expression"]) for s in part["selectors"]
        ]
        if any(size is not None and int(size[1]) == card_mib for size in sizes):
            return part
    return None

"""Claims, templates and classes that the admission policies of deploy/ let through, refuse, or write anew."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any, Final

from fracgpu.driver.names import CLASS_FRACTION, CLASS_WHOLE, DRIVER_NAME
from tests.deploy.servers import Answer, Requests

Json = dict[str, Any]
_DRA: Final = "/apis/resource.k8s.io/v1"
_PATHS: Final = {
    "ResourceClaim": f"{_DRA}/namespaces/admission/resourceclaims",
    "ResourceClaimTemplate": f"{_DRA}/namespaces/admission/resourceclaimtemplates",
    "DeviceClass": f"{_DRA}/deviceclasses",
}
_ENVELOPE: Final = {"apiVersion": "gpu.fracgpu.dev/v1alpha1", "kind": "FractionConfig"}
_ENVELOPE_TEXT: Final = "write apiVersion gpu.fracgpu.dev/v1alpha1 and kind FractionConfig"
_ZERO_TEXT: Final = "memory and slots may be zero with adminAccess only; ask for what is needed"
_KEYS_TEXT: Final = "; write memory, cores or slots, without a domain"


@dataclass(frozen=True)
class Case:
    """One object to be created; `refusal` is part of the message, empty when it is to be stored."""

    name: str
    spec: Json
    refusal: str = ""
    kind: str = "ResourceClaim"

    def __str__(self) -> str:
        """Return the name, for test ids."""
        return self.name

    def body(self) -> bytes:
        """Return the object as the official client would send it."""
        api = {"apiVersion": "resource.k8s.io/v1", "kind": self.kind, "metadata": {"name": "a"}}
        return json.dumps(api | {"spec": self.spec}).encode()


def make_place(admin: Requests) -> None:
    """Make the namespace of the claims, in which admin access is allowed."""
    labels = {"resource.kubernetes.io/admin-access": "true"}
    answer = admin.send("POST", "/api/v1/namespaces", {"metadata": {"name": "admission", "labels": labels}})
    assert answer.code in (201, 409), answer.raw


def create(admin: Requests, case: Case) -> Answer:
    """Try to create the object; nothing is stored."""
    return admin.send("POST", f"{_PATHS[case.kind]}?dryRun=All", case.body())


def _devices(*requests: Json, parameters: Json | None = None, driver: str = DRIVER_NAME) -> Json:
    devices: Json = {"requests": list(requests)}
    if parameters is not None:
        devices["config"] = [{"opaque": {"driver": driver, "parameters": parameters}}]
    return {"devices": devices}


def _asks(device_class: str = CLASS_FRACTION, *, admin: bool = False, **amounts: Any) -> Json:
    exactly: Json = {"deviceClassName": device_class}
    if amounts:
        exactly["capacity"] = {"requests": amounts}
    return {"name": "gpu", "exactly": exactly | ({"adminAccess": True} if admin else {})}


def _prefers(*amounts: Json) -> Json:
    parts = [
        {"name": f"n{index}", "deviceClassName": CLASS_FRACTION, "capacity": {"requests": one}}
        for index, one in enumerate(amounts)
    ]
    return {"name": "gpu", "firstAvailable": parts}


def _says(**fields: Any) -> Json:
    return _devices(_asks(), parameters=_ENVELOPE | fields)


def _class(parameters: Json, driver: str = DRIVER_NAME) -> Json:
    return {"config": [{"opaque": {"driver": driver, "parameters": parameters}}]}


_CLAIMS: Final = [
    Case("no amounts", _devices({"name": "gpu", "exactly": {"deviceClassName": CLASS_FRACTION}})),
    Case("no requests", {"devices": {"requests": []}}),
    Case("amounts", _devices(_asks(memory="8Gi", cores="30", slots="1"))),
    Case("no cores", _devices(_asks(memory="8Gi", cores="0"))),
    Case("zero memory", _devices(_asks(memory="0")), _ZERO_TEXT),
    Case("zero memory in another notation", _devices(_asks(memory="0Gi")), _ZERO_TEXT),
    Case("zero slots", _devices(_asks(slots=0)), _ZERO_TEXT),
    Case("zero memory of a whole GPU", _devices(_asks(CLASS_WHOLE, memory="0")), _ZERO_TEXT),
    Case("zero memory in a prioritized list", _devices(_prefers({"memory": "8Gi"}, {"memory": "0"})), _ZERO_TEXT),
    Case("zero for admin access", _devices(_asks(admin=True, memory="0", cores="0", slots="0"))),
    Case(
        "zero beside admin access",
        _devices(_asks(admin=True, memory="0"), _asks(memory="0") | {"name": "other"}),
        _ZERO_TEXT,
    ),
    Case("zero of somebody else's class", _devices(_asks("gpu.example.com", memory="0"))),
    Case(
        "key with a domain",
        _devices(_prefers({"gpu.fracgpu.dev/memory": "8Gi"})),
        f"no such key: gpu.fracgpu.dev/memory{_KEYS_TEXT}",
    ),
    Case("unknown key", _devices(_asks(mem="8Gi")), f"no such key: mem{_KEYS_TEXT}"),
    Case("unknown key in a prioritized list", _devices(_prefers({"mem": "8Gi"})), f"no such key: mem{_KEYS_TEXT}"),
    Case("unknown key for admin access", _devices(_asks(admin=True, mem="8Gi")), f"no such key: mem{_KEYS_TEXT}"),
    Case("unknown key of somebody else's class", _devices(_asks("gpu.example.com", mem="8Gi"))),
    Case(
        "parameters",
        _says(memory="8Gi", cores=30, weight=2, utilizationView="Slice", placement={"gpu": "Binpack"}),
    ),
    Case(
        "unknown version",
        _devices(_asks(), parameters=_ENVELOPE | {"apiVersion": "gpu.fracgpu.dev/v1"}),
        _ENVELOPE_TEXT,
    ),
    Case("unknown kind", _devices(_asks(), parameters=_ENVELOPE | {"kind": "Fraction"}), _ENVELOPE_TEXT),
    Case("a grant", _devices(_asks(), parameters=_ENVELOPE | {"kind": "FractionGrant"}), _ENVELOPE_TEXT),
    Case("kind that is no text", _devices(_asks(), parameters=_ENVELOPE | {"kind": 7}), _ENVELOPE_TEXT),
    Case("no kind", _devices(_asks(), parameters={}), _ENVELOPE_TEXT),
    Case("unknown field", _says(gpus=1), "no such field: gpus; write memory, memoryPercent"),
    Case("field of a class", _says(enforcement="None"), "no such field: enforcement; write memory, memoryPercent"),
    Case("zero memory in parameters", _says(memory="0"), "memory may be zero with adminAccess only; ask for"),
    Case("all memory in parameters", _says(memory="Whole")),
    Case("memory that is no quantity", _says(memory="much")),
    Case("memory that is no text", _says(memory=8)),
    Case("zero memory for admin access", _devices(_asks(admin=True), parameters=_ENVELOPE | {"memory": "0"})),
    Case("parameters of another driver", _devices(_asks(), parameters={"any": "thing"}, driver="other.example.com")),
]
CASES: Final = [
    *_CLAIMS,
    *(
        Case(f"{case.name}, in a template", {"spec": case.spec}, case.refusal, "ResourceClaimTemplate")
        for case in _CLAIMS
        if case.refusal
    ),
    Case("class", _class(_ENVELOPE | {"memory": "Whole", "strict": True}), kind="DeviceClass"),
    Case("class of another driver", _class({"any": "thing"}, "other.example.com"), kind="DeviceClass"),
    Case("class of unknown kind", _class({"kind": "X"}), _ENVELOPE_TEXT, "DeviceClass"),
    Case("class with unknown field", _class(_ENVELOPE | {"gpus": 1}), "no such field: gpus", "DeviceClass"),
]
# What the server finds by itself, with the policies in place: they must not stumble over it before.
FINDINGS: Final = [
    Case("no parameters", {"devices": {"config": [{"opaque": {"driver": DRIVER_NAME}}]}}, "opaque.parameters: Required")
]

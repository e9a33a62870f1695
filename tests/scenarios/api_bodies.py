"""Objects and calls that the tables of API calls are made of."""

from __future__ import annotations

from typing import Any, Final

from fracgpu.sim.node.api import Json
from tests.scenarios.api_case import MERGE, Refused, Then

# Nobody's: of our own class and driver our admission policies say more than the API server does.
CLASS: Final = "gpu.conformance.example.com"
_DRIVER: Final = "conformance.example.com"
REQUEST: Final = "spec.devices.requests[0].exactly"


def claim(*requests: Json, metadata: Json | None = None, **devices: Any) -> Json:
    """Return a claim with these requests."""
    body: Json = {"apiVersion": "resource.k8s.io/v1", "kind": "ResourceClaim", "metadata": metadata or {}}
    return body | {"spec": {"devices": {"requests": list(requests), **devices}}}


def request(name: str = "gpu", **exactly: Any) -> Json:
    """Return a request for one device of the class."""
    return {"name": name, "exactly": {"deviceClassName": CLASS, **exactly}}


def one_of(*alternatives: Json, name: str = "gpu") -> Json:
    """Return a prioritized list."""
    return {"name": name, "firstAvailable": list(alternatives)}


def option(name: str, **members: Any) -> Json:
    """Return one entry of a prioritized list."""
    return {"name": name, "deviceClassName": CLASS, **members}


def opaque(parameters: Any, driver: str = _DRIVER, **entry: Any) -> Json:
    """Return a configuration entry."""
    return {"opaque": {"driver": driver, "parameters": parameters}, **entry}


def template(inner: Json, metadata: Json | None = None) -> Json:
    """Return the template of a claim."""
    spec = {"spec": inner["spec"]} | ({"metadata": metadata} if metadata else {})
    return {"apiVersion": "resource.k8s.io/v1", "kind": "ResourceClaimTemplate", "spec": spec}


def invalid(*fragments: str) -> Refused:
    """Return the refusal of an object that breaks validation."""
    return Refused(422, "Invalid", fragments)


def put(edit: Any, **members: Any) -> Then:
    """Return a PUT of the stored object as changed in place by `edit`."""

    def changed(obj: Json) -> Json:
        edit(obj)
        return obj

    return Then(method="PUT", edit=changed, **members)


def patch(document: Any, content_type: str = MERGE, **members: Any) -> Then:
    """Return a patch."""
    return Then(method="PATCH", edit=lambda _: document, content_type=content_type, **members)

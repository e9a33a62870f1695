"""One call of the Kubernetes API with the answer that every API server has to give, the emulator and the real one.

The emulator is worth as much as its answers are those of the real server. So the answers are written down once, as
tables, and asked of both: what is refused and in which words, what is stored, what is dropped or added in silence.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from fracgpu.sim.node.api import Json, KubeApi
from fracgpu.sim.transport import ApiRefusedError

MERGE: Final = "application/merge-patch+json"
JSON_PATCH: Final = "application/json-patch+json"
STRATEGIC: Final = "application/strategic-merge-patch+json"

COLLECTIONS: Final = {
    "ResourceClaim": "/apis/resource.k8s.io/v1/namespaces/{namespace}/resourceclaims",
    "ResourceClaimTemplate": "/apis/resource.k8s.io/v1/namespaces/{namespace}/resourceclaimtemplates",
    "DeviceClass": "/apis/resource.k8s.io/v1/deviceclasses",
    "ResourceSlice": "/apis/resource.k8s.io/v1/resourceslices",
    "Pod": "/api/v1/namespaces/{namespace}/pods",
    "Deployment": "/apis/apps/v1/namespaces/{namespace}/deployments",
    "StatefulSet": "/apis/apps/v1/namespaces/{namespace}/statefulsets",
    "Job": "/apis/batch/v1/namespaces/{namespace}/jobs",
    "Namespace": "/api/v1/namespaces",
}


@dataclass(frozen=True, slots=True)
class Refused:
    """The call fails: HTTP code, machine-readable reason, and texts that the message has."""

    code: int
    reason: str
    fragments: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Stored:
    """The call succeeds. The answer has `values` at these paths, and nothing at the paths of `absent`."""

    values: Mapping[str, Any] = field(default_factory=dict)
    absent: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Then:
    """A further call on an object that was created: `edit` makes its body from what is stored."""

    method: str
    edit: Callable[[Json], Any]
    subresource: str = ""
    content_type: str = "application/json"
    query: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """Create `body`, then do what `then` says; the last of these calls gives the answer.

    `query` belongs to the creation. An object without a name is called as the case.
    """

    name: str
    body: Json
    answer: Refused | Stored
    then: Sequence[Then] = ()
    query: str = ""


def perform(api: KubeApi, case: Case, namespace: str) -> Json:
    """Make the calls and return the last answer; raises ApiRefusedError. What was created is removed."""
    body = copy.deepcopy(case.body)
    body.setdefault("metadata", {})
    if not {"name", "generateName"} & body["metadata"].keys():
        body["metadata"]["name"] = object_name(case)
    path = COLLECTIONS[body["kind"]].format(namespace=namespace)
    stored = api.create(path + case.query, body)
    own = f"{path}/{stored['metadata']['name']}"
    try:
        for step in case.then:
            # Controllers may have written meanwhile.
            stored = api.get(own)
            target = own + (f"/{step.subresource}" if step.subresource else "") + step.query
            stored = api.send(step.method, target, step.edit(copy.deepcopy(stored)), content_type=step.content_type)
    finally:
        if not case.query:
            _remove(api, own)
    return stored


def object_name(case: Case) -> str:
    """Return the name of the object of a case."""
    return re.sub(r"[^a-z0-9]+", "-", case.name.lower()).strip("-")[:60].rstrip("-")


def check(api: KubeApi, case: Case, namespace: str) -> None:
    """Make the calls and compare the answer with the expected one."""
    answer, refusal = _ask(api, case, namespace)
    if isinstance(case.answer, Refused):
        assert refusal is not None, f"not refused: {answer}"
        assert (refusal.code, refusal.reason) == (case.answer.code, case.answer.reason), refusal.what
        assert [text for text in case.answer.fragments if text not in refusal.what] == [], refusal.what
        return
    assert refusal is None, f"refused: {refusal}"
    seen = {path: look(answer, path) for path in case.answer.values}
    assert seen == dict(case.answer.values)
    assert [path for path in case.answer.absent if look(answer, path) is not None] == []


def _ask(api: KubeApi, case: Case, namespace: str) -> tuple[Json | None, ApiRefusedError | None]:
    try:
        return perform(api, case, namespace), None
    except ApiRefusedError as error:
        return None, error


def look(obj: Any, path: str) -> Any:
    """Return what is at a path like `spec.devices.requests[0].name`, None where there is nothing."""
    for key, index in re.findall(r"([^.\[\]]+)|\[(\d+|\".*?\")\]", path):
        part: str | int = key or (index.strip('"') if index.startswith('"') else int(index))
        if isinstance(obj, dict) and isinstance(part, str):
            obj = obj.get(part)
        elif isinstance(obj, list) and isinstance(part, int) and part < len(obj):
            obj = obj[part]
        else:
            return None
    return obj


def _remove(api: KubeApi, path: str) -> None:
    try:
        found = api.get(path)
        if found["metadata"].get("finalizers"):
            api.send("PATCH", path, {"metadata": {"finalizers": None}}, content_type=MERGE)
        api.delete(path, {"gracePeriodSeconds": 0, "propagationPolicy": "Background"})
    except ApiRefusedError as error:
        if error.code != 404:
            raise

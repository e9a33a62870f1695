"""Opaque parameters in every spelling, and every way to write something else about the claim that carries them.

The API server stores the bytes that came and compares bytes; JSON on the way in or out spells them anew.
Which of the writes it refuses, and what is stored afterwards, must be the same on a real server and on the emulator.
"""

from __future__ import annotations

import copy
import json
from typing import Any, Final

from fracgpu.proto.resource.v1.generated_pb2 import ResourceClaim, Unknown
from tests.deploy.rights import allocation
from tests.deploy.servers import MERGE_PATCH, Answer, Requests

Json = dict[str, Any]
CLAIMS: Final = "/apis/resource.k8s.io/v1/namespaces/default/resourceclaims"
# The trap is the same for every driver's parameters; of ours the admission policies say more.
FOREIGN: Final = "other.example.com"
PROTOBUF: Final = "application/vnd.kubernetes.protobuf"
_MAGIC: Final = b"k8s\0"

STORED: Final = {
    "canonical": b'{"a":1,"b":"x"}',
    "unsorted": b'{"b":"x","a":1}',
    "spaces": b'{"a": 1,  "b": "x"}',
    "line breaks": b'{\n\t"a":1,"b":"x"\n}',
    "nested unsorted": b'{"a":{"d":1,"c":[{"f":1,"e":2}]}}',
    "not ascii": '{"a":1,"b":"é 日本"}'.encode(),
    "escaped": rb'{"a":1,"b":"\u00e9"}',
    "angle": b'{"a":1,"b":"<&>"}',
    "escaped angle": rb'{"a":1,"b":"\u003c"}',
    "exponent": b'{"a":1e3,"b":"x"}',
    "whole float": b'{"a":1.0,"b":"x"}',
    "float": b'{"a":0.1,"b":"x"}',
    "large": b'{"a":9007199254740993,"b":"x"}',
    "slash": rb'{"a":1,"b":"\/"}',
    "twice": b'{"a":1,"b":"x","a":2}',
}
"""Parameters as a client may send them, all of them JSON objects."""

WAYS: Final = ("put compact", "put as json.dumps", "merge patch", "json patch", "strategic")
"""How JSON clients write: none of them touches the parameters, and each may seem to."""


def create(admin: Requests, name: str, parameters: bytes) -> Json:
    """Make a claim with these parameters, to the byte; return it as JSON shows it."""
    body = (
        b'{"apiVersion":"resource.k8s.io/v1","kind":"ResourceClaim","metadata":{"name":"%s"},"spec":{"devices":{'
        b'"requests":[{"name":"gpu","exactly":{"deviceClassName":"k"}}],'
        b'"config":[{"opaque":{"driver":"%s","parameters":%s}}]}}}' % (name.encode(), FOREIGN.encode(), parameters)
    )
    answer = admin.send("POST", CLAIMS, body)
    assert answer.code == 201, answer.raw
    return answer.body


def allocate_with(admin: Requests, claim: Json, parameters: bytes, node: str) -> None:
    """Allocate the claim on a node with the same bytes in the allocation, as the scheduler copies them."""
    entry = b'[{"source":"FromClaim","opaque":{"driver":"%s","parameters":%s}}]' % (FOREIGN.encode(), parameters)
    wanted = json.dumps(allocation(node)).encode().replace(b'"results"', b'"config":%s,"results"' % entry)
    meta = {key: claim["metadata"][key] for key in ("name", "namespace", "uid", "resourceVersion")}
    head = json.dumps({"apiVersion": "resource.k8s.io/v1", "kind": "ResourceClaim", "metadata": meta}).encode()[:-1]
    spec = json.dumps(claim["spec"]).encode()
    body = head + b',"spec":%s,"status":{"allocation":%s}}' % (spec, wanted)
    answer = admin.send("PUT", f"{CLAIMS}/{meta['name']}/status", body)
    assert answer.code == 200, answer.raw


def add_finalizer(admin: Requests, claim: Json, way: str) -> Answer:
    """Add a finalizer without touching the spec, in one of WAYS."""
    path, finalizers = f"{CLAIMS}/{claim['metadata']['name']}", ["example.com/f"]
    if way.startswith("put"):
        changed = copy.deepcopy(claim)
        changed["metadata"]["finalizers"] = finalizers
        compact = json.dumps(changed, separators=(",", ":"), ensure_ascii=False)
        return admin.send("PUT", path, (compact if way == "put compact" else json.dumps(changed)).encode())
    if way == "json patch":
        operation = [{"op": "add", "path": "/metadata/finalizers", "value": finalizers}]
        return admin.send("PATCH", path, operation, content_type="application/json-patch+json")
    kind = MERGE_PATCH if way == "merge patch" else "application/strategic-merge-patch+json"
    return admin.send("PATCH", path, {"metadata": {"finalizers": finalizers}}, content_type=kind)


def stored_parameters(admin: Requests, name: str, namespace: str = "default") -> list[bytes]:
    """Return the bytes that the server has: of the claim's spec, then of its allocation."""
    path = f"/apis/resource.k8s.io/v1/namespaces/{namespace}/resourceclaims/{name}"
    answer = admin.send("GET", path, accept=PROTOBUF)
    assert answer.code == 200
    claim = ResourceClaim.FromString(Unknown.FromString(answer.raw.removeprefix(_MAGIC)).raw)
    asked = [config.deviceConfiguration for config in claim.spec.devices.config]
    allocated = [config.deviceConfiguration for config in claim.status.allocation.devices.config]
    return [config.opaque.parameters.raw for config in asked + allocated]

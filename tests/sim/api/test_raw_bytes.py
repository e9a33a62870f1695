"""The trap of opaque parameters: what JSON clients may still write, by how the creator had encoded them."""

from __future__ import annotations

import copy
import json
from typing import Any

import pytest

from fracgpu.sim.api.requests import VERBATIM_JSON

CLAIMS = "/apis/resource.k8s.io/v1/namespaces/default/resourceclaims"
MERGE = "application/merge-patch+json"
JSON_PATCH = "application/json-patch+json"
STRATEGIC = "application/strategic-merge-patch+json"

STORED = {
    "canonical": b'{"a":1,"b":"x"}',
    "unsorted": b'{"b":"x","a":1}',
    "spaces": b'{"a": 1,  "b": "x"}',
    "not ascii": '{"a":1,"b":"é"}'.encode(),
    "exponent": b'{"a":1e3,"b":"x"}',
    "angle": rb'{"a":1,"b":"\u003c"}',
}


def _create(raw: Any, parameters: bytes) -> dict[str, Any]:
    body = (
        b'{"metadata":{"name":"c"},"spec":{"devices":{"requests":[{"name":"gpu","exactly":{"deviceClassName":"k"}}],'
        b'"config":[{"opaque":{"driver":"gpu.fracgpu.dev","parameters":%s}}]}}}' % parameters
    )
    answer = raw("POST", CLAIMS, body)
    assert answer.code == 201
    stored: dict[str, Any] = answer.body
    return stored


def _write(raw: Any, claim: dict[str, Any], way: str) -> Any:
    """Add a finalizer without touching the spec, in one of the ways that JSON clients have."""
    finalizers = ["example.com/f"]
    if way.startswith("put"):
        changed = copy.deepcopy(claim)
        changed["metadata"]["finalizers"] = finalizers
        if way == "put compact":
            text = json.dumps(changed, separators=(",", ":"), ensure_ascii=False)
        else:
            text = json.dumps(changed)
        return raw("PUT", f"{CLAIMS}/c", text.encode())
    if way == "json patch":
        operation = [{"op": "add", "path": "/metadata/finalizers", "value": finalizers}]
        return raw("PATCH", f"{CLAIMS}/c", operation, Content_Type=JSON_PATCH)
    kind = MERGE if way == "merge patch" else STRATEGIC
    return raw("PATCH", f"{CLAIMS}/c", {"metadata": {"finalizers": finalizers}}, Content_Type=kind)


@pytest.mark.parametrize(
    ("stored", "way", "allowed"),
    [
        ("canonical", "put compact", True),
        ("canonical", "merge patch", True),
        ("canonical", "json patch", True),
        ("canonical", "strategic", True),
        ("canonical", "put as json.dumps", False),
        ("unsorted", "put compact", True),
        ("unsorted", "merge patch", True),
        ("unsorted", "json patch", True),
        ("unsorted", "strategic", False),
        ("spaces", "put compact", False),
        ("spaces", "put as json.dumps", False),
        ("spaces", "merge patch", False),
        ("spaces", "json patch", False),
        ("spaces", "strategic", False),
        ("not ascii", "put as json.dumps", False),
        ("not ascii", "strategic", True),
        ("exponent", "put compact", False),
        ("exponent", "strategic", False),
        ("angle", "put compact", False),
        ("angle", "strategic", True),
    ],
)
def test_matrix_of_json_clients(raw: Any, stored: str, way: str, allowed: bool) -> None:
    claim = _create(raw, STORED[stored])
    answer = _write(raw, claim, way)
    if allowed:
        assert (answer.code, answer.body["metadata"].get("finalizers")) == (200, ["example.com/f"])
    else:
        assert answer.code == 422
        assert answer.causes[0].startswith("spec: ")
        assert answer.causes[0].endswith("field is immutable")


@pytest.mark.parametrize("stored", sorted(STORED))
def test_the_verbatim_way_always_works(raw: Any, stored: str) -> None:
    claim = _create(raw, STORED[stored])
    verbatim = raw("GET", f"{CLAIMS}/c", Accept=VERBATIM_JSON).raw
    assert STORED[stored] in verbatim
    changed = verbatim.replace(b'"name":"c"', b'"name":"c","finalizers":["example.com/f"]')
    assert raw("PUT", f"{CLAIMS}/c", changed).code == 200
    assert STORED[stored] in raw("GET", f"{CLAIMS}/c", Accept=VERBATIM_JSON).raw
    assert raw("GET", f"{CLAIMS}/c").body["spec"] == claim["spec"]


def test_answers_in_json_are_compact_whatever_was_sent(raw: Any) -> None:
    _create(raw, STORED["spaces"])
    assert STORED["canonical"] in raw("GET", f"{CLAIMS}/c").raw


@pytest.mark.parametrize("stored", ["canonical", "spaces"])
def test_allocation_is_compared_by_bytes_too(raw: Any, make_allocation: Any, stored: str) -> None:
    claim = _create(raw, STORED["canonical"])
    entry = b'{"source":"FromClass","opaque":{"driver":"gpu.fracgpu.dev","parameters":%s}}' % STORED[stored]
    allocation = json.dumps(make_allocation()).encode().replace(b'"results"', b'"config":[%s],"results"' % entry)
    head = json.dumps({"metadata": claim["metadata"]}).encode()[:-1]
    status = head + b',"status":{"allocation":%s}}' % allocation
    assert raw("PUT", f"{CLAIMS}/c/status", status).code == 200
    seen = raw("GET", f"{CLAIMS}/c").body
    seen["status"]["reservedFor"] = [{"resource": "pods", "name": "p", "uid": "u"}]
    answer = raw("PUT", f"{CLAIMS}/c/status", json.dumps(seen, separators=(",", ":")).encode())
    assert answer.code == (200 if stored == "canonical" else 422)
    if stored == "spaces":
        assert answer.causes[0].startswith("status.allocation: ")
        patch: dict[str, Any] = {"status": {"devices": []}}
        assert raw("PATCH", f"{CLAIMS}/c/status", patch, Content_Type=MERGE).code == 422


def test_a_real_change_of_the_spec_is_refused(raw: Any) -> None:
    claim = _create(raw, STORED["canonical"])
    claim["spec"]["devices"]["requests"][0]["name"] = "other"
    answer = raw("PUT", f"{CLAIMS}/c", json.dumps(claim, separators=(",", ":")).encode())
    assert answer.code == 422
    assert 'ResourceClaim.resource.k8s.io "c" is invalid: spec: Invalid value' in answer.body["message"]


def test_a_patch_may_write_parameters_where_they_are_mutable(raw: Any) -> None:
    path = "/apis/resource.k8s.io/v1/deviceclasses"
    config = [{"opaque": {"driver": "d.example.com", "parameters": {"a": 1}}}]
    raw("POST", path, {"metadata": {"name": "k"}, "spec": {"config": config}})
    operation = [{"op": "replace", "path": "/spec/config/0/opaque/parameters/a", "value": 2}]
    answer = raw("PATCH", f"{path}/k", operation, Content_Type=JSON_PATCH)
    assert answer.body["spec"]["config"][0]["opaque"]["parameters"] == {"a": 2}

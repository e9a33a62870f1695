"""What the admission policies of deploy/ refuse, in which words, and what they change: on the emulator.

tests/cluster asks a real API server the same. What is refused here Prepare would refuse later.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from fracgpu.driver.config import FractionConfig, parse_config
from fracgpu.driver.errors import ConfigInvalid
from fracgpu.driver.names import CAPACITIES
from fracgpu.sim import manifests
from fracgpu.sim.api import policy_meanings
from fracgpu.sim.api.access import Access
from fracgpu.sim.api.policies import PolicyNotSupported
from fracgpu.sim.api.server import ApiServer
from fracgpu.sim.lab.credentials import shipped_access
from tests.deploy.admission import CASES, Case, create, make_place
from tests.deploy.parameters import STORED, stored_parameters
from tests.deploy.servers import Requests

CLAIMS = "/apis/resource.k8s.io/v1/namespaces/default/resourceclaims"
CLASSES = "/apis/resource.k8s.io/v1/deviceclasses"


@pytest.fixture(scope="module")
def admin() -> Iterator[Requests]:
    with ApiServer(access=shipped_access()) as server:
        requests = Requests(server.url)
        make_place(requests)
        yield requests


@pytest.mark.parametrize("case", CASES, ids=str)
def test_what_no_device_can_serve_is_refused_with_its_remedy(admin: Requests, case: Case) -> None:
    answer = create(admin, case)
    if not case.refusal:
        assert answer.code == 201, answer.raw
        return
    assert (answer.code, answer.body["reason"]) == (422, "Invalid")
    assert '"a" is forbidden: ValidatingAdmissionPolicy ' in answer.body["message"]
    assert case.refusal in answer.body["message"]


def claim(name: bytes, parameters: bytes, driver: bytes = b"gpu.fracgpu.dev") -> bytes:
    request = b'{"name":"gpu","exactly":{"deviceClassName":"k"}}'
    entry = b'{"opaque":{"driver":"%s","parameters":%s}}' % (driver, parameters)
    return b'{"metadata":{"name":"%s"},"spec":{"devices":{"requests":[%s],"config":[%s]}}}' % (name, request, entry)


def test_parameters_of_ours_are_stored_canonically(admin: Requests) -> None:
    spaced = b'{"kind": "FractionConfig", "apiVersion": "gpu.fracgpu.dev/v1alpha1", "memory": "8Gi"}'
    assert admin.send("POST", CLAIMS, claim(b"spaced", spaced)).code == 201
    assert stored_parameters(admin, "spaced") == [
        b'{"apiVersion":"gpu.fracgpu.dev/v1alpha1","kind":"FractionConfig","memory":"8Gi"}'
    ]
    answer = admin.send("GET", f"{CLAIMS}/spaced")
    assert answer.body["metadata"]["annotations"] == {"gpu.fracgpu.dev/parameters": "canonical"}


@pytest.mark.parametrize("kind", ["DeviceClass", "ResourceClaim"])
def test_parameters_that_are_missing_are_a_finding_of_validation(admin: Requests, kind: str) -> None:
    config = [{"opaque": {"driver": "gpu.fracgpu.dev"}}]
    spec, path = ({"config": config}, CLASSES) if kind == "DeviceClass" else ({"devices": {"config": config}}, CLAIMS)
    answer = admin.send("POST", path, {"metadata": {"name": "without"}, "spec": spec})
    assert answer.code == 422, answer.raw
    assert "opaque.parameters: Required value" in answer.body["message"]


def test_parameters_of_others_stay_as_they_are(admin: Requests) -> None:
    assert admin.send("POST", CLAIMS, claim(b"foreign", STORED["spaces"], b"other.example.com")).code == 201
    assert stored_parameters(admin, "foreign") == [STORED["spaces"]]


def test_the_policies_know_the_fields_and_keys_that_the_code_knows() -> None:
    fields = {info.alias or name for name, info in FractionConfig.model_fields.items()}
    claims, classes = set(policy_meanings._CLAIM_FIELDS), set(policy_meanings._CLASS_FIELDS)
    assert claims | classes == fields
    assert set(policy_meanings._KEYS) == set(CAPACITIES)
    of_a_class = {field for field in fields if "may only be set by a class" in _complaint(field)}
    assert of_a_class == classes


def _complaint(field: str) -> str:
    parameters = {"apiVersion": "gpu.fracgpu.dev/v1alpha1", "kind": "FractionConfig", field: None}
    with pytest.raises(ConfigInvalid) as caught:
        parse_config(parameters, source="FromClaim")
    return str(caught.value)


POLICIES = ("kubelet-plugin-policy.yaml", "claims-policy.yaml", "parameters-policy.yaml")


def expressions(tree: Any) -> Iterator[tuple[Any, str]]:
    """Yield every expression below `tree`: what holds it, and under which key."""
    for key, value in tree.items() if isinstance(tree, dict) else enumerate(tree):
        if key in ("expression", "messageExpression") and isinstance(value, str):
            yield tree, key
        elif isinstance(value, (dict, list)):
            yield from expressions(value)


@pytest.mark.parametrize("file", POLICIES)
def test_the_emulator_takes_no_expression_for_another(file: str) -> None:
    """What deploy/ says and what policy_meanings.py says can not drift apart unnoticed."""
    count = len(list(expressions(documents(file))))
    assert count >= 2
    for number in range(count):
        objects = documents(file)
        holder, key = list(expressions(objects))[number]
        holder[key] += " || true"
        with pytest.raises(PolicyNotSupported, match="has no meaning for"):
            Access(objects)


def documents(file: str) -> list[dict[str, Any]]:
    return [dict(obj) for obj in manifests.load(manifests.shipped(file))]

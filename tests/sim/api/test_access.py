"""Who may do what with a token, by the roles and the policy that are shipped."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from fracgpu.sim import manifests
from fracgpu.sim.api.access import Access
from fracgpu.sim.api.identity import NODE_NAME_EXTRA, User, service_account
from fracgpu.sim.api.policies import PolicyNotSupported
from fracgpu.sim.api.server import ApiServer

Json = dict[str, Any]
GROUP = "/apis/resource.k8s.io/v1"
CLAIMS = f"{GROUP}/namespaces/default/resourceclaims"
SLICES = f"{GROUP}/resourceslices"
MERGE = "application/merge-patch+json"
PLUGIN = "system:serviceaccount:fracgpu-system:fracgpu-kubeletplugin"
SHIPPED = ("kubelet-plugin-rbac.yaml", "kubelet-plugin-policy.yaml")


def shipped_objects() -> list[Json]:
    return [dict(obj) for name in SHIPPED for obj in manifests.load(manifests.shipped(name))]


@pytest.fixture
def access() -> Access:
    return Access(shipped_objects())


@pytest.fixture
def server(access: Access) -> Iterator[ApiServer]:
    with ApiServer(access=access) as running:
        yield running


@pytest.fixture
def plugin(access: Access, raw: Any) -> Callable[..., Any]:
    """Requests with the token of the plugin on node n1, or of another user."""
    usual = access.tokens.issue(service_account("fracgpu-system", "fracgpu-kubeletplugin", node="n1"))

    def send(*args: Any, user: User | None = None, **headers: str) -> Any:
        token = access.tokens.issue(user) if user else usual
        return raw(*args, Authorization=f"Bearer {token}", **headers)

    return send


@pytest.fixture
def claim(raw: Any, make_claim: Any, make_allocation: Any) -> Callable[..., Json]:
    """Make a claim that is allocated on n1, written by an administrator."""

    def build(**allocation: Any) -> Json:
        stored = raw("POST", CLAIMS, make_claim()).body
        stored["status"] = {"allocation": make_allocation() | allocation}
        answer = raw("PUT", f"{CLAIMS}/c/status", stored)
        assert answer.code == 200
        written: Json = answer.body
        return written

    return build


def entry(driver: str = "gpu.fracgpu.dev", **more: Any) -> Json:
    return {"driver": driver, "pool": "n1", "device": "gpu-1", **more}


def test_without_a_token_everything_is_allowed(raw: Any, make_claim: Any, access: Access) -> None:
    assert raw("POST", CLAIMS, make_claim()).code == 201
    assert (access.used, access.refused) == (set(), [])


@pytest.mark.parametrize("header", ["Bearer wrong", "Bearer", "Basic abc", "nonsense"])
def test_a_token_that_nobody_knows_is_401(raw: Any, header: str) -> None:
    answer = raw("GET", CLAIMS, Authorization=header)
    assert (answer.code, answer.body["reason"]) == (401, "Unauthorized")


def test_a_token_is_a_bearer_token(raw: Any, access: Access) -> None:
    token = access.tokens.issue(User("jane"))
    assert raw("GET", CLAIMS, Authorization=f"Basic {token}").code == 401
    assert raw("GET", CLAIMS, Authorization=f"bearer {token}").code == 403


def test_a_revoked_token_is_401(raw: Any, access: Access) -> None:
    token = access.tokens.issue(User("jane"))
    assert raw("GET", "/api/v1/nodes", Authorization=f"Bearer {token}").code == 403
    access.tokens.revoke(token)
    assert raw("GET", "/api/v1/nodes", Authorization=f"Bearer {token}").code == 401


@pytest.mark.parametrize(
    ("method", "path", "refusal"),
    [
        ("GET", f"{CLAIMS}/c", ""),
        ("GET", "/api/v1/nodes/n1", ""),
        ("GET", SLICES, ""),
        ("GET", f"{SLICES}?watch=1&timeoutSeconds=1", ""),
        (
            "GET",
            CLAIMS,
            'cannot list resource "resourceclaims" in API group "resource.k8s.io" in the namespace "default"',
        ),
        ("GET", f"{CLAIMS}?watch=1", "cannot watch resource"),
        ("GET", "/api/v1/nodes", 'cannot list resource "nodes" in API group "" at the cluster scope'),
        ("GET", "/api/v1/pods", "cannot list"),
        ("GET", f"{SLICES}/x", "cannot get"),
        ("POST", CLAIMS, "cannot create"),
        ("PUT", f"{CLAIMS}/c", "cannot update"),
        ("DELETE", f"{CLAIMS}/c", "cannot delete"),
        ("DELETE", SLICES, "cannot deletecollection"),
        ("GET", f"{CLAIMS}/c/status", 'cannot get resource "resourceclaims/status"'),
        ("PATCH", "/api/v1/nodes/n1/status", "cannot patch"),
    ],
)
def test_the_role_is_what_decides(
    raw: Any, plugin: Any, access: Access, make_claim: Any, method: str, path: str, refusal: str
) -> None:
    raw("POST", "/api/v1/nodes", {"metadata": {"name": "n1"}})
    raw("POST", CLAIMS, make_claim())
    answer = plugin(method, path, {} if method not in ("GET", "DELETE") else None)
    if not refusal:
        assert answer.code == 200
        assert access.refused == []
    else:
        assert (answer.code, answer.body["reason"]) == (403, "Forbidden")
        assert f'User "{PLUGIN}" {refusal}' in answer.body["message"]
        assert " is forbidden: " in answer.body["message"]
        assert access.refused == [answer.body["message"]]


def test_another_account_has_no_rights(plugin: Any) -> None:
    other = service_account("default", "fracgpu-kubeletplugin", node="n1")
    assert plugin("GET", SLICES, user=other).code == 403


@pytest.mark.parametrize("way", ["PUT", "PATCH"])
def test_the_plugin_writes_its_entries_in_claims_of_its_node(plugin: Any, claim: Any, way: str) -> None:
    stored = claim()
    if way == "PUT":
        stored["status"]["devices"] = [entry()]
        answer = plugin("PUT", f"{CLAIMS}/c/status", json.dumps(stored).encode())
    else:
        answer = plugin("PATCH", f"{CLAIMS}/c/status", {"status": {"devices": [entry()]}}, Content_Type=MERGE)
    assert answer.code == 200
    assert answer.body["status"]["devices"] == [entry()]


def test_a_write_that_changes_no_entry_needs_no_right_to_it(raw: Any, plugin: Any, claim: Any) -> None:
    stored = claim()
    stored["status"]["devices"] = [entry()]
    foreign = stored["status"]["devices"][0]
    stored = raw("PUT", f"{CLAIMS}/c/status", stored).body
    nobody = service_account("fracgpu-system", "fracgpu-kubeletplugin", node="elsewhere")
    assert plugin("PUT", f"{CLAIMS}/c/status", stored, user=nobody).code == 200
    foreign["data"] = {"a": 1}
    changed = copy.deepcopy(stored) | {"status": stored["status"] | {"devices": [foreign]}}
    assert plugin("PUT", f"{CLAIMS}/c/status", changed, user=nobody).code == 422
    removed = copy.deepcopy(stored) | {"status": stored["status"] | {"devices": []}}
    assert plugin("PUT", f"{CLAIMS}/c/status", removed, user=nobody).code == 422


TERM = {"matchFields": [{"key": "metadata.name", "operator": "In", "values": ["n1"]}]}
EXPRESSION = [{"key": "kubernetes.io/hostname", "operator": "In", "values": ["n1"]}]


@pytest.mark.parametrize(
    ("user", "terms"),
    [
        (service_account("fracgpu-system", "fracgpu-kubeletplugin", node="n2"), [TERM]),
        (service_account("fracgpu-system", "fracgpu-kubeletplugin"), [TERM]),
        (User(PLUGIN, extra={NODE_NAME_EXTRA: ("n1", "n1")}), [TERM]),
        (None, [TERM, TERM]),
        (None, [TERM | {"matchExpressions": EXPRESSION}]),
        (None, [{"matchExpressions": EXPRESSION}]),
        (None, [{"matchFields": [TERM["matchFields"][0] | {"operator": "NotIn"}]}]),
    ],
    ids=["other node", "no node", "two nodes", "two terms", "fields and expressions", "expressions", "not in"],
)
def test_the_association_with_a_node_must_be_exact(
    plugin: Any, claim: Any, user: User | None, terms: list[Json]
) -> None:
    claim(nodeSelector={"nodeSelectorTerms": terms})
    body = {"status": {"devices": [entry()]}}
    answer = plugin("PATCH", f"{CLAIMS}/c/status", body, user=user, Content_Type=MERGE)
    # Validation refuses it, so it is 422 Invalid and not 403.
    assert (answer.code, answer.body["reason"]) == (422, "Invalid")
    (cause,) = answer.causes
    assert cause.startswith(
        'status.devices: Forbidden: changing status.devices requires resource="resourceclaims/driver", '
        'verb="[arbitrary-node:patch]" permission: resourceclaims.resource.k8s.io "gpu.fracgpu.dev" is forbidden'
    )


def test_a_user_that_is_no_service_account_is_not_associated(plugin: Any, claim: Any, access: Access) -> None:
    claim()
    binding = next(obj for obj in shipped_objects() if obj["kind"] == "ClusterRoleBinding")
    binding["subjects"] = [{"kind": "Group", "name": "people"}]
    access.rules = Access([*shipped_objects(), binding]).rules
    jane = User("jane", frozenset({"people"}), {NODE_NAME_EXTRA: ("n1",)})
    body = {"status": {"devices": [entry()]}}
    assert plugin("PATCH", f"{CLAIMS}/c/status", body, user=jane, Content_Type=MERGE).code == 422


def test_entries_of_another_driver_are_not_the_plugins(raw: Any, plugin: Any, claim: Any, make_allocation: Any) -> None:
    two = make_allocation()["devices"]["results"]
    claim(devices={"results": [*two, two[0] | {"driver": "other.example.com"}]})
    body = {"status": {"devices": [entry("other.example.com")]}}
    answer = plugin("PATCH", f"{CLAIMS}/c/status", body, Content_Type=MERGE)
    assert answer.code == 422
    assert 'verb="[associated-node:patch arbitrary-node:patch]"' in answer.causes[0]
    assert "other.example.com" in answer.causes[0]


def test_allocation_and_reservation_are_not_the_plugins(plugin: Any, claim: Any) -> None:
    claim()
    user = {"resource": "pods", "name": "p", "uid": "u"}
    for status in ({"allocation": None}, {"reservedFor": [user]}):
        answer = plugin("PATCH", f"{CLAIMS}/c/status", {"status": status}, Content_Type=MERGE)
        assert answer.code == 422
        assert 'requires resource="resourceclaims/binding", verb="patch" permission' in answer.causes[0]


@pytest.mark.parametrize("verb", ["associated-node:update", "associated-node:patch"])
def test_each_verb_on_our_driver_is_needed(plugin: Any, claim: Any, access: Access, verb: str) -> None:
    objects = shipped_objects()
    role = next(obj for obj in objects if obj["kind"] == "ClusterRole")
    (rule,) = [rule for rule in role["rules"] if rule["resources"] == ["resourceclaims/driver"]]
    rule["verbs"].remove(verb)
    access.rules = Access(objects).rules
    stored = claim()
    stored["status"]["devices"] = [entry()]
    patch = {"status": {"devices": [entry(data={"a": 1})]}}
    codes = {
        "associated-node:update": plugin("PUT", f"{CLAIMS}/c/status", stored).code,
        "associated-node:patch": plugin("PATCH", f"{CLAIMS}/c/status", patch, Content_Type=MERGE).code,
    }
    assert {name for name, code in codes.items() if code == 422} == {verb}
    assert {name for name, code in codes.items() if code == 200} == set(codes) - {verb}


def test_an_allocation_that_json_changes_by_its_bytes_is_refused_twice(
    raw: Any, plugin: Any, make_claim: Any, make_allocation: Any, access: Access
) -> None:
    """A patch re-encodes spaced parameters: that is a change of the allocation, to which the plugin has no right."""
    claim = raw("POST", CLAIMS, make_claim()).body
    opaque = {"driver": "gpu.fracgpu.dev", "parameters": {"b": 1, "a": 2}}
    allocation = make_allocation()
    allocation["devices"]["config"] = [{"source": "FromClass", "opaque": opaque}]
    assert raw("PUT", f"{CLAIMS}/c/status", claim | {"status": {"allocation": allocation}}).code == 200
    answer = plugin("PATCH", f"{CLAIMS}/c/status", {"status": {"devices": [entry()]}}, Content_Type=MERGE)
    assert answer.code == 422
    binding, immutable = answer.causes
    assert immutable.endswith("field is immutable")
    assert "resourceclaims/binding" in binding
    # Nobody could have made that change, so no right is missing.
    assert access.refused == []


def make_slice(node: str | None = "n1", driver: str = "gpu.fracgpu.dev", name: str = "s") -> Json:
    where: Json = {"nodeName": node} if node else {"allNodes": True}
    pool = {"name": node or "all", "generation": 1, "resourceSliceCount": 1}
    return {"metadata": {"name": name}, "spec": {"driver": driver, "pool": pool, "devices": [], **where}}


def test_a_plugin_writes_the_slices_of_its_node(plugin: Any) -> None:
    created = plugin("POST", SLICES, make_slice())
    assert created.code == 201
    created.body["metadata"]["labels"] = {"a": "b"}
    assert plugin("PUT", f"{SLICES}/s", created.body).code == 200
    assert plugin("DELETE", f"{SLICES}/s").code == 200


@pytest.mark.parametrize(
    ("body", "user", "message"),
    [
        (make_slice("n2"), None, "slices of its own node only"),
        (make_slice(None), None, "slices of its own node only"),
        (make_slice(driver="gpu.example.com"), None, "slices of driver gpu.fracgpu.dev only"),
        (make_slice(), service_account("fracgpu-system", "fracgpu-kubeletplugin"), "carries no node name"),
    ],
    ids=["other node", "all nodes", "other driver", "token without node"],
)
def test_it_writes_no_other_slice(raw: Any, plugin: Any, body: Json, user: User | None, message: str) -> None:
    answers = [plugin("POST", SLICES, body, user=user)]
    stored = raw("POST", SLICES, body).body
    stored["metadata"]["labels"] = {"a": "b"}
    answers += [plugin("PUT", f"{SLICES}/s", stored, user=user), plugin("DELETE", f"{SLICES}/s", user=user)]
    for answer in answers:
        assert (answer.code, answer.body["reason"]) == (403, "Forbidden")
        assert "ValidatingAdmissionPolicy 'fracgpu-slices-node-bound'" in answer.body["message"]
        assert message in answer.body["message"]
    assert raw("GET", f"{SLICES}/s").code == 200


def test_the_policy_is_about_the_plugin_only(raw: Any) -> None:
    assert raw("POST", SLICES, make_slice("n2", "gpu.example.com")).code == 201


@pytest.mark.parametrize("place", ["validations", "matchConditions", "variables"])
def test_a_policy_that_the_emulator_does_not_understand_is_refused(place: str) -> None:
    objects = shipped_objects()
    policy = next(obj for obj in objects if obj["kind"] == "ValidatingAdmissionPolicy")
    policy["spec"][place][0]["expression"] += " || true"
    with pytest.raises(PolicyNotSupported, match="fracgpu-slices-node-bound"):
        Access(objects)


def test_a_policy_without_a_binding_does_nothing(access: Access, plugin: Any) -> None:
    assert plugin("POST", SLICES, make_slice("n2")).code == 403
    objects = [obj for obj in shipped_objects() if obj["kind"] != "ValidatingAdmissionPolicyBinding"]
    access.policies = Access(objects).policies
    assert plugin("POST", SLICES, make_slice("n2")).code == 201

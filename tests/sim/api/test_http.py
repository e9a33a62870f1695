"""Discovery, negotiation, selectors: the edges of the protocol."""

from __future__ import annotations

from typing import Any
from urllib.parse import quote

import pytest

from fracgpu.sim.api.server import ApiServer, ServerStartError

NODES = "/api/v1/nodes"


def test_discovery_lists_what_is_served(raw: Any) -> None:
    assert raw("GET", "/version").body["minor"] == "36"
    assert raw("GET", "/api").body["versions"] == ["v1"]
    groups = {item["name"] for item in raw("GET", "/apis").body["groups"]}
    assert {"resource.k8s.io", "apps", "batch", "coordination.k8s.io", "apiextensions.k8s.io"} == groups
    listed = raw("GET", "/apis/resource.k8s.io/v1").body["resources"]
    assert {"resourceclaims", "resourceclaims/status", "resourceslices", "deviceclasses"} <= {
        item["name"] for item in listed
    }
    assert raw("GET", "/apis/resource.k8s.io").body["preferredVersion"]["version"] == "v1"
    for group in groups:
        assert raw("GET", f"/apis/{group}/v1").code == 200


@pytest.mark.parametrize("path", ["/healthz", "/readyz", "/livez"])
def test_health(raw: Any, path: str) -> None:
    assert raw("GET", path).raw == b"ok"


@pytest.mark.parametrize(
    "path", ["/apis/nope.example.com/v1/things", "/api/v1/secrets", "/apis/resource.k8s.io/v1beta1", f"{NODES}/a/b/c"]
)
def test_unknown_paths_are_not_found_as_status(raw: Any, path: str) -> None:
    answer = raw("GET", path)
    assert (answer.code, answer.body["kind"], answer.body["reason"]) == (404, "Status", "NotFound")


PROTOBUF = "application/vnd.kubernetes.protobuf"


@pytest.mark.parametrize(
    ("headers", "code", "reason"),
    [
        ({"Accept": PROTOBUF}, 406, "NotAcceptable"),
        ({"Accept": f"{PROTOBUF}, application/json"}, 201, None),
        ({"Accept": "application/json;as=Table;v=v1;g=meta.k8s.io, application/json"}, 201, None),
        ({"Accept": "*/*"}, 201, None),
        ({"Content_Type": PROTOBUF}, 415, "UnsupportedMediaType"),
        ({"Content_Type": "application/yaml"}, 415, "UnsupportedMediaType"),
    ],
)
def test_negotiation(raw: Any, headers: dict[str, str], code: int, reason: str | None) -> None:
    answer = raw("POST", NODES, {"metadata": {"name": "n1"}}, **headers)
    assert (answer.code, answer.body.get("reason")) == (code, reason)


def test_server_side_apply_is_refused_by_name(raw: Any) -> None:
    raw("POST", NODES, {"metadata": {"name": "n1"}})
    answer = raw("PATCH", f"{NODES}/n1", {}, Content_Type="application/apply-patch+yaml")
    assert (answer.code, answer.body["reason"]) == (415, "UnsupportedMediaType")


def test_body_beyond_the_limit(raw: Any) -> None:
    answer = raw("POST", NODES, {"metadata": {"name": "n1", "annotations": {"a": "x" * (4 << 20)}}})
    assert answer.code == 413


@pytest.mark.parametrize(
    ("selector", "names"),
    [
        ("zone=x", "ac"),
        ("zone==x,tier", "a"),
        ("zone!=x", "bd"),
        ("zone in (x, y)", "abc"),
        ("zone notin (x)", "bd"),
        ("!zone", "d"),
        ("tier", "a"),
        ("", "abcd"),
    ],
)
def test_label_selectors(raw: Any, selector: str, names: str) -> None:
    for name, labels in (("a", {"zone": "x", "tier": "1"}), ("b", {"zone": "y"}), ("c", {"zone": "x"}), ("d", {})):
        raw("POST", NODES, {"metadata": {"name": name, "labels": labels}})
    items = raw("GET", f"{NODES}?labelSelector={quote(selector)}").body["items"]
    assert "".join(item["metadata"]["name"] for item in items) == names


def test_field_selectors(raw: Any) -> None:
    for name, node in (("a", "n1"), ("b", "n2"), ("c", "")):
        spec: dict[str, Any] = {"containers": [{"name": "c", "image": "x"}]} | ({"nodeName": node} if node else {})
        raw("POST", "/api/v1/namespaces/default/pods", {"metadata": {"name": name}, "spec": spec})

    def names(selector: str) -> list[str]:
        items = raw("GET", f"/api/v1/pods?fieldSelector={quote(selector)}").body["items"]
        return [item["metadata"]["name"] for item in items]

    assert names("spec.nodeName=n1") == ["a"]
    assert names("spec.nodeName=") == ["c"]
    assert names("spec.nodeName!=n1,metadata.namespace=default") == ["b", "c"]
    assert names("status.phase=Pending,metadata.name=b") == ["b"]


@pytest.mark.parametrize("query", ["fieldSelector=spec.colour%3Dred", "labelSelector=a%20b%20c", "fieldSelector=x"])
def test_selector_that_is_not_understood_is_refused(raw: Any, query: str) -> None:
    assert raw("GET", f"{NODES}?{query}").code == 400


def test_only_loopback() -> None:
    with pytest.raises(ServerStartError, match=r"0\.0\.0\.0.*loopback"):
        ApiServer(host="0.0.0.0")


def test_taken_port_is_a_clear_error(server: ApiServer) -> None:
    port = int(server.url.rpartition(":")[2])
    with pytest.raises(ServerStartError, match="choose a free port"), ApiServer(port=port):
        pass

"""The adapter against a real HTTP server that answers what the test says and keeps what it was sent."""

import json
import socket
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
import urllib3
from kubernetes.config import ConfigException

from fracgpu.driver.kube.errors import Conflict, Forbidden, Immutable, NotFound, Refused, Unavailable
from fracgpu.kubeletplugin.api.kubernetes_cluster import KubernetesCluster
from fracgpu.proto.resource.v1.generated_pb2 import ResourceClaim, TypeMeta, Unknown


@dataclass
class Request:
    method: str
    path: str
    query: dict[str, list[str]]
    headers: Any
    body: bytes


class Server(ThreadingHTTPServer):
    daemon_threads = True
    status = 200
    answer: Any = b"{}"

    def handle_error(self, *_: Any) -> None:
        """A client may go away in the middle of an answer."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.requests: list[Request] = []


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Server

    def _serve(self) -> None:
        url = urlsplit(self.path)
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        self.server.requests.append(Request(self.command, url.path, parse_qs(url.query), self.headers, body))
        self.send_response(self.server.status)
        chunks = self.server.answer if isinstance(self.server.answer, list) else None
        if chunks is None:
            self.send_header("Content-Length", str(len(self.server.answer)))
            self.end_headers()
            self.wfile.write(self.server.answer)
            return
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        for chunk in chunks:
            self.wfile.write(f"{len(chunk):x}\r\n".encode() + chunk + b"\r\n")
            self.wfile.flush()
        self.wfile.write(b"0\r\n\r\n")

    do_GET = do_POST = do_PUT = do_PATCH = do_DELETE = _serve  # noqa: N815

    def log_message(self, *_: Any) -> None:
        return


@pytest.fixture
def server() -> Iterator[Server]:
    running = Server()
    thread = threading.Thread(target=running.serve_forever, args=(0.01,))
    thread.start()
    yield running
    running.shutdown()
    thread.join()
    running.server_close()


def write_kubeconfig(path: Path, url: str) -> Path:
    config = {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": "c", "cluster": {"server": url}}],
        "users": [{"name": "u", "user": {"token": "secret"}}],
        "contexts": [{"name": "x", "context": {"cluster": "c", "user": "u"}}],
        "current-context": "x",
    }
    path.write_text(json.dumps(config))
    return path


@pytest.fixture
def cluster(server: Server, tmp_path: Path) -> Iterator[KubernetesCluster]:
    url = f"http://127.0.0.1:{server.server_port}"
    one = KubernetesCluster(write_kubeconfig(tmp_path / "kubeconfig", url))
    yield one
    one.close()


def test_claims_come_as_they_are_fields_that_no_client_knows_included(
    server: Server, cluster: KubernetesCluster
) -> None:
    claim = {"metadata": {"uid": "u"}, "status": {"fieldOfTheFuture": {"a": [1]}}}
    server.answer = json.dumps(claim).encode()
    assert cluster.get_claim("ns", "c1") == claim
    (request,) = server.requests
    assert (request.method, request.path) == ("GET", "/apis/resource.k8s.io/v1/namespaces/ns/resourceclaims/c1")
    assert request.headers["Authorization"] == "Bearer secret"


def test_slices_are_selected_by_driver_and_node(server: Server, cluster: KubernetesCluster) -> None:
    server.answer = b'{"metadata": {"resourceVersion": "7"}, "items": [{"metadata": {"name": "s"}}]}'
    listing = cluster.list_slices("n1")
    assert listing.resource_version == "7"
    assert [item["metadata"]["name"] for item in listing.items] == ["s"]
    assert server.requests[0].query == {"fieldSelector": ["spec.driver=gpu.fracgpu.dev,spec.nodeName=n1"]}


def test_an_empty_list_may_be_null(server: Server, cluster: KubernetesCluster) -> None:
    server.answer = b'{"metadata": {"resourceVersion": "7"}, "items": null}'
    assert cluster.list_slices("n1").items == ()


def test_bodies_are_sent_sorted_and_without_spaces(server: Server, cluster: KubernetesCluster) -> None:
    body = {"metadata": {"name": "s", "resourceVersion": "1"}, "b": "ü", "a": [1, {"d": 1, "c": 2}]}
    cluster.create_slice(body, dry_run=True)
    cluster.replace_slice(body)
    cluster.delete_slice("s")
    cluster.get_node("n1")
    create, replace, delete, node = server.requests
    expected = '{"a":[1,{"c":2,"d":1}],"b":"ü","metadata":{"name":"s","resourceVersion":"1"}}'.encode()
    path = "/apis/resource.k8s.io/v1/resourceslices"
    assert (create.method, create.path, create.query, create.body) == ("POST", path, {"dryRun": ["All"]}, expected)
    assert create.headers["Content-Type"] == "application/json"
    assert (replace.method, replace.path, replace.query, replace.body) == ("PUT", f"{path}/s", {}, expected)
    assert (delete.method, delete.path, delete.body) == ("DELETE", f"{path}/s", b"")
    assert (node.method, node.path) == ("GET", "/api/v1/nodes/n1")


def test_a_claims_status_is_patched_with_the_version_that_was_read(server: Server, cluster: KubernetesCluster) -> None:
    cluster.patch_claim_status("ns", "c1", {"status": {"devices": []}, "metadata": {"resourceVersion": "7"}})
    (request,) = server.requests
    assert (request.method, request.path) == (
        "PATCH",
        "/apis/resource.k8s.io/v1/namespaces/ns/resourceclaims/c1/status",
    )
    assert request.headers["Content-Type"] == "application/merge-patch+json"
    assert request.body == b'{"metadata":{"resourceVersion":"7"},"status":{"devices":[]}}'


def wrapped(claim: ResourceClaim) -> bytes:
    kind = TypeMeta(apiVersion="resource.k8s.io/v1", kind="ResourceClaim")
    return b"k8s\0" + Unknown(typeMeta=kind, raw=claim.SerializeToString()).SerializeToString()


def test_a_claim_travels_as_protobuf_and_back(server: Server, cluster: KubernetesCluster) -> None:
    claim = ResourceClaim()
    claim.metadata.name, claim.metadata.namespace = "c1", "ns"
    claim.spec.devices.config.add().deviceConfiguration.opaque.parameters.raw = b'{ "a": 1.0 }'
    server.answer = wrapped(claim)
    read = cluster.get_claim_message("ns", "c1")
    assert read == claim
    cluster.replace_claim_status_message(read)
    get, put = server.requests
    path = "/apis/resource.k8s.io/v1/namespaces/ns/resourceclaims/c1"
    protobuf = "application/vnd.kubernetes.protobuf"
    assert (get.method, get.path, get.headers["Accept"]) == ("GET", path, protobuf)
    assert (put.method, put.path, put.headers["Content-Type"]) == ("PUT", f"{path}/status", protobuf)
    assert put.body == wrapped(claim)


@pytest.mark.parametrize("answer", [b"{}", b"", b"k8s\0\xff\xff"], ids=["json", "empty", "cut"])
def test_an_answer_that_is_no_protobuf_is_unavailable(
    server: Server, cluster: KubernetesCluster, answer: bytes
) -> None:
    server.answer = answer
    with pytest.raises(Unavailable, match="the answer is no"):
        cluster.get_claim_message("ns", "c1")


def test_an_event_is_created_in_its_namespace(server: Server, cluster: KubernetesCluster) -> None:
    cluster.create_event("ns", {"reason": "LibraryReplaced"})
    (request,) = server.requests
    assert (request.method, request.path) == ("POST", "/api/v1/namespaces/ns/events")
    assert request.body == b'{"reason":"LibraryReplaced"}'


def test_what_kind_of_refusal_it_is_stands_in_the_text(server: Server, cluster: KubernetesCluster) -> None:
    immutable = "spec: Invalid value: ...: field is immutable"
    right = 'status.devices: Forbidden: changing status.devices requires resource="resourceclaims/driver", verb=...'
    for status, message, kind in (
        (422, "x" * 5000 + immutable, Immutable),
        (422, f"{right} {immutable}", Immutable),
        (422, right, Forbidden),
        (403, immutable, Forbidden),
        (422, "too long", Refused),
    ):
        server.status, server.answer = status, json.dumps({"message": message}).encode()
        with pytest.raises(Refused) as caught:
            cluster.patch_claim_status("ns", "c1", {})
        assert type(caught.value) is kind
        assert len(str(caught.value)) < 600


def test_a_watch_yields_events_however_they_are_cut(server: Server, cluster: KubernetesCluster) -> None:
    events = [
        {"type": kind, "object": {"metadata": {"name": name}}} for kind, name in (("ADDED", "a"), ("DELETED", "b"))
    ]
    stream = b"".join(json.dumps(event).encode() + b"\n" for event in events)
    server.answer = [stream[:10], stream[10:70], stream[70:], b"\n"]
    seen = [(event.kind, event.item["metadata"]["name"]) for event in cluster.watch_slices("n1", "7")]
    assert seen == [("ADDED", "a"), ("DELETED", "b")]
    query = server.requests[0].query
    assert (query["watch"], query["resourceVersion"]) == (["1"], ["7"])
    assert int(query["timeoutSeconds"][0]) > 0


def test_a_watch_ends_at_an_error_event(server: Server, cluster: KubernetesCluster) -> None:
    server.answer = [b'{"type": "ERROR", "object": {"code": 410}}\n', b'{"type": "ADDED", "object": {}}\n']
    assert list(cluster.watch_slices("n1", "7")) == []


STATUS = [
    (404, NotFound, "status 404: not there; create the object"),
    (409, Conflict, "status 409: not there; read it again"),
    (410, Conflict, "status 410: not there; read it again"),
    (401, Unavailable, "status 401: not there; it is tried again with the token as it is then"),
    (403, Refused, "status 403: not there; check our RBAC rules"),
    (422, Refused, "status 422: not there; check our RBAC rules"),
    (302, Refused, "status 302: not there"),
    (429, Unavailable, "status 429: not there; it is tried again"),
    (500, Unavailable, "status 500: not there; it is tried again"),
    (503, Unavailable, "status 503: not there; it is tried again"),
]


@pytest.mark.parametrize(("status", "error", "text"), STATUS, ids=[str(case[0]) for case in STATUS])
def test_each_status_is_an_error_that_says_what_to_do(
    server: Server, cluster: KubernetesCluster, status: int, error: type[Exception], text: str
) -> None:
    server.status, server.answer = status, b'{"message": "not there"}'
    with pytest.raises(error, match=text):
        cluster.get_node("n1")
    with pytest.raises(error):
        next(cluster.watch_slices("n1", "7"))


def test_a_token_that_is_not_accepted_is_read_again_and_only_then(server: Server, tmp_path: Path) -> None:
    url = f"http://127.0.0.1:{server.server_port}"
    path = write_kubeconfig(tmp_path / "kubeconfig", url)
    one = KubernetesCluster(path)
    path.write_text(path.read_text().replace("secret", "renewed"))
    one.get_node("n1")
    server.status, server.answer = 401, b"{}"
    with pytest.raises(Unavailable):
        one.get_node("n1")
    server.status = 200
    one.get_node("n1")
    sent = [request.headers["Authorization"].removeprefix("Bearer ") for request in server.requests]
    assert sent == ["secret", "secret", "renewed", "renewed"]
    one.close()


@pytest.mark.parametrize("answer", [b"<html>", b"[]", b""], ids=["html", "list", "empty"])
def test_nonsense_is_unavailable(server: Server, cluster: KubernetesCluster, answer: bytes) -> None:
    server.answer = answer
    with pytest.raises(Unavailable, match="the answer is no JSON"):
        cluster.get_node("n1")


def test_an_error_page_is_quoted(server: Server, cluster: KubernetesCluster) -> None:
    server.status, server.answer = 502, b"bad gateway"
    with pytest.raises(Unavailable, match="status 502: bad gateway"):
        cluster.get_node("n1")


def test_a_server_that_is_not_there_is_unavailable(tmp_path: Path) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{unused.getsockname()[1]}"
        one = KubernetesCluster(write_kubeconfig(tmp_path / "kubeconfig", url))
        with pytest.raises(Unavailable, match=r"API server /api/v1/nodes/n1: .*refused.*; it is tried again"):
            one.get_node("n1")


@pytest.mark.parametrize("content", [None, "a: [", "{}", "[]"], ids=["absent", "no-yaml", "empty", "list"])
def test_a_wrong_kubeconfig_is_named(tmp_path: Path, content: str | None) -> None:
    path = tmp_path / "kubeconfig"
    if content is not None:
        path.write_text(content)
    with pytest.raises(Unavailable, match=rf"kubeconfig {path}: .*; give --kubeconfig, or run in a pod with a token"):
        KubernetesCluster(path)


@pytest.mark.parametrize("timeout_seconds", [-1.0, 0.0, 0.05], ids=["past", "now", "soon"])
def test_a_server_that_never_answers_is_unavailable_when_the_callers_time_is_over(
    tmp_path: Path, timeout_seconds: float
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        cluster = KubernetesCluster(write_kubeconfig(tmp_path / "k", f"http://127.0.0.1:{silent.getsockname()[1]}"))
        with pytest.raises(Unavailable, match=r"resourceclaims/c1: .*timed out.*; it is tried again"):
            cluster.get_claim("ns", "c1", timeout_seconds=timeout_seconds)


def test_connecting_and_answering_share_the_callers_time(
    cluster: KubernetesCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each with a limit of its own they would take the sum."""
    asked: list[urllib3.Timeout] = []

    def note(*_: object, timeout: urllib3.Timeout, **__: object) -> None:
        asked.append(timeout)
        raise urllib3.exceptions.ProtocolError("noted")

    monkeypatch.setattr(urllib3.PoolManager, "request", note)
    with pytest.raises(Unavailable):
        cluster.get_claim("ns", "c1", timeout_seconds=3.0)
    (timeout,) = asked
    assert (timeout.total, timeout.connect_timeout) == (3.0, 3.0)


def test_outside_a_pod_a_kubeconfig_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("KUBERNETES_SERVICE_HOST", raising=False)
    with pytest.raises(Unavailable, match=r"service account of this pod: .*; give --kubeconfig"):
        KubernetesCluster(None)


@pytest.mark.parametrize(
    "error",
    [FileNotFoundError(2, "No such file", "/token"), ConfigException("Token file exists but empty.")],
    ids=["gone", "empty"],
)
def test_a_token_that_can_not_be_read_again_is_a_matter_of_the_connection(
    cluster: KubernetesCluster, error: Exception
) -> None:
    def refresh(_configuration: Any) -> None:
        raise error

    cluster._transport._client.configuration.refresh_api_key_hook = refresh
    with pytest.raises(Unavailable, match="it is tried again"):
        cluster.get_claim("ns", "c1")

"""API client of the control plane: JSON over HTTP that keeps the bytes of opaque parameters.

The components that it stands for speak protobuf, which keeps those bytes; a client that decodes and encodes JSON would
run into `field is immutable` on claims that were written with spaces.
"""

from __future__ import annotations

from typing import Final
from urllib.parse import urlencode

from fracgpu.sim.api.objects import JsonObject
from fracgpu.sim.api.rawjson import dumps, loads
from fracgpu.sim.api.requests import VERBATIM_JSON
from fracgpu.sim.api.resources import Resource
from fracgpu.sim.transport import ApiTransport, JsonCodec, WatchStream


def _encode(body: JsonObject) -> bytes:
    return dumps(body, verbatim=True)


_VERBATIM: Final = JsonCodec(encode=_encode, decode=loads, accept=VERBATIM_JSON)


class ApiClient:
    """Requests to one API server over plain HTTP. Safe to use from several threads."""

    def __init__(self, url: str) -> None:
        self._transport = ApiTransport(url, _VERBATIM)

    def get(self, resource: Resource, namespace: str, name: str) -> JsonObject:
        """Return one object."""
        return self._transport.request("GET", path_of(resource, namespace, name))

    def list(self, resource: Resource) -> tuple[list[JsonObject], str]:
        """Return all objects of a resource and the resourceVersion of the list."""
        answer = self._transport.request("GET", path_of(resource))
        for item in answer["items"]:
            item.setdefault("apiVersion", resource.api_version)
            item.setdefault("kind", resource.kind)
        return answer["items"], str(answer["metadata"]["resourceVersion"])

    def watch(self, resource: Resource, revision: str) -> WatchStream:
        """Return a watch, not opened yet, on all objects of a resource after a resourceVersion."""
        query = {"watch": "true", "resourceVersion": revision, "allowWatchBookmarks": "true"}
        return self._transport.watch(f"{path_of(resource)}?{urlencode(query)}")

    def create(self, resource: Resource, namespace: str, body: JsonObject, *, dry_run: bool = False) -> JsonObject:
        """Create an object."""
        return self._transport.request("POST", path_of(resource, namespace) + ("?dryRun=All" if dry_run else ""), body)

    def update(self, resource: Resource, body: JsonObject, *, subresource: str = "") -> JsonObject:
        """Replace an object, or one subresource of it, guarded by the resourceVersion in the body."""
        meta = body["metadata"]
        path = path_of(resource, str(meta.get("namespace", "")), str(meta["name"]))
        return self._transport.request("PUT", path + (f"/{subresource}" if subresource else ""), body)

    def delete(self, resource: Resource, obj: JsonObject) -> None:
        """Delete exactly this object (by UID)."""
        meta = obj["metadata"]
        options = {"kind": "DeleteOptions", "apiVersion": "v1", "preconditions": {"uid": meta["uid"]}}
        self._transport.request("DELETE", path_of(resource, str(meta.get("namespace", "")), str(meta["name"])), options)

    def post(self, path: str, body: JsonObject) -> None:
        """POST to a subresource whose answer does not matter."""
        self._transport.request("POST", path, body)


def path_of(resource: Resource, namespace: str = "", name: str = "") -> str:
    """Return the URL path of a collection or an object."""
    inside = f"/namespaces/{namespace}" if resource.namespaced and namespace else ""
    return f"{resource.root}{inside}/{resource.plural}" + (f"/{name}" if name else "")

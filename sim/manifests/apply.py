"""Load and apply. Every error names file, document and, where there is one, the server's message."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import yaml

import fracgpu.sim
from fracgpu.driver.errors import FracgpuError
from fracgpu.sim.api.objects import JsonObject, metadata, name_of
from fracgpu.sim.api.rawjson import RawJson, RawJsonError, loads
from fracgpu.sim.api.resources import ALL_RESOURCES, Resource, find_kind
from fracgpu.sim.control.client import ApiClient
from fracgpu.sim.transport import ApiRefusedError

_ATTEMPTS = 5


class ManifestError(FracgpuError):
    """A manifest that cannot be read, or an object in it that the server refuses."""


class ManifestObject(dict[str, Any]):
    """One Kubernetes object that remembers where it stands: `origin` is file (or `text`) and document number from 1."""

    def __init__(self, origin: str, body: JsonObject) -> None:
        super().__init__(body)
        self.origin = origin

    @property
    def resource(self) -> Resource:
        """Return the resource type. Raises ManifestError for a kind that is not served."""
        api_version, kind = str(self.get("apiVersion")), str(self.get("kind"))
        found = find_kind(api_version, kind)
        if found is None:
            known = ", ".join(sorted(item.kind for item in ALL_RESOURCES))
            raise ManifestError(self.origin, f"{api_version} {kind} is not served", remedy=f"served kinds: {known}")
        return found


def shipped(name: str = "deviceclasses.yaml") -> str:
    """Return the YAML of a manifest of deploy/, which an installation has beside the packages."""
    return (Path(fracgpu.sim.__path__[0]).parent / "deploy" / name).read_text()


def load(path_or_text: str | Path) -> list[ManifestObject]:
    """Return the objects of a YAML file, or of YAML text (a string with a line break); `List` objects are unrolled.

    Raises ManifestError.
    """
    if isinstance(path_or_text, Path) or "\n" not in path_or_text:
        origin = str(path_or_text)
        try:
            text = Path(path_or_text).read_text()
        except (OSError, UnicodeDecodeError) as error:
            raise ManifestError(origin, f"cannot be read: {error}", remedy="name a YAML file") from error
    else:
        origin, text = "text", path_or_text
    documents: list[ManifestObject] = []
    try:
        for index, body in enumerate(yaml.load_all(text, Loader=_JsonLoader), start=1):
            documents += _objects(f"{origin} document {index}", body)
    except yaml.YAMLError as error:
        where = f"{origin} document {len(documents) + 1}"
        raise ManifestError(where, f"is not YAML: {error}", remedy="correct the syntax") from error
    return documents


def apply(
    url_or_client: str | ApiClient, objects: Iterable[JsonObject], *, namespace: str = "default"
) -> list[JsonObject]:
    """Create each object, or replace the one of its name; returns what the server stored.

    `namespace` is for namespaced objects that name none. Everything is checked to be of a served kind before the first
    write. Raises ManifestError.
    """
    client = ApiClient(url_or_client) if isinstance(url_or_client, str) else url_or_client
    documents = [
        item if isinstance(item, ManifestObject) else ManifestObject(f"object {index}", item)
        for index, item in enumerate(objects, start=1)
    ]
    kinds = [document.resource for document in documents]
    return [_apply(client, document, kind, namespace) for document, kind in zip(documents, kinds, strict=True)]


def _objects(origin: str, body: Any) -> list[ManifestObject]:
    if body is None:
        return []
    if not isinstance(body, dict) or not body.get("apiVersion") or not body.get("kind"):
        raise ManifestError(origin, "is not a Kubernetes object", remedy="give apiVersion, kind and metadata")
    if body["kind"] == "List":
        return [found for item in body.get("items") or [] for found in _objects(origin, item)]
    meta = body.get("metadata")
    if not isinstance(meta, dict) or not (meta.get("name") or meta.get("generateName")):
        raise ManifestError(origin, f"{body['kind']} has no name", remedy="set metadata.name")
    return [ManifestObject(origin, body)]


def _apply(client: ApiClient, document: ManifestObject, resource: Resource, namespace: str) -> JsonObject:
    body = _as_kubectl_sends(document)
    if resource.namespaced:
        metadata(body).setdefault("namespace", namespace)
    inside = str(metadata(body).get("namespace", ""))
    try:
        return _create_or_replace(client, resource, inside, body)
    except ApiRefusedError as error:
        what = f"{resource.kind} {name_of(body) or metadata(body).get('generateName')} refused: {error.what}"
        raise ManifestError(document.origin, what, remedy="correct the manifest") from error


def _create_or_replace(client: ApiClient, resource: Resource, namespace: str, body: JsonObject) -> JsonObject:
    for attempt in range(1, _ATTEMPTS + 1):
        try:
            return client.create(resource, namespace, body)
        except ApiRefusedError as error:
            if error.reason != "AlreadyExists":
                raise
        stored = client.get(resource, namespace, name_of(body))
        replacement = body | {"metadata": metadata(body) | {"resourceVersion": metadata(stored)["resourceVersion"]}}
        try:
            return client.update(resource, replacement)
        except ApiRefusedError as error:
            if error.code not in (404, 409) or attempt == _ATTEMPTS:
                raise
    raise AssertionError("unreachable: the last attempt returns or raises")


def _as_kubectl_sends(document: ManifestObject) -> JsonObject:
    try:
        text = json.dumps(document, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
        decoded = loads(text.encode())
    except (TypeError, ValueError, RawJsonError) as error:
        raise ManifestError(document.origin, f"is not JSON: {error}", remedy="use JSON types only") from error
    compacted = _compact(decoded)
    return compacted if isinstance(compacted, dict) else {}


def _compact(value: Any) -> Any:
    if isinstance(value, RawJson):
        return value.canonical()
    if isinstance(value, dict):
        return {key: _compact(item) for key, item in value.items()}
    return [_compact(item) for item in value] if isinstance(value, list) else value


class _JsonLoader(yaml.SafeLoader):
    """YAML as JSON: no timestamps (Kubernetes writes times as text)."""


_JsonLoader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if tag != "tag:yaml.org,2002:timestamp"]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}

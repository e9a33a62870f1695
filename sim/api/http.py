"""HTTP front of the emulator: routing and encoding, no semantics of its own."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Mapping, Sequence

from aiohttp import web

from fracgpu.sim.api import discovery, protobuf
from fracgpu.sim.api.access import Access, Guard
from fracgpu.sim.api.errors import ApiError, bad_request, not_found
from fracgpu.sim.api.objects import JsonObject, metadata, name_of, namespace_of, uid_of
from fracgpu.sim.api.rawjson import dumps
from fracgpu.sim.api.registry import Registry
from fracgpu.sim.api.requests import (
    Encoding,
    Target,
    choose_encoding,
    decode_body,
    decode_patch,
    delete_options,
    is_true,
    number,
    parse_filter,
    parse_path,
    speaks_protobuf,
    write_options,
)
from fracgpu.sim.api.resources import PODS, Resource
from fracgpu.sim.api.streaming import WatchStreams

_METHODS = ("GET", "POST", "PUT", "PATCH", "DELETE")
_MAX_BODY = 3 * 1024 * 1024


class HttpApi:
    """The aiohttp application over one registry."""

    def __init__(self, registry: Registry, streams: WatchStreams, access: Access) -> None:
        self._registry = registry
        self._streams = streams
        self._access = access

    def application(self) -> web.Application:
        """Return the application."""
        app = web.Application(client_max_size=_MAX_BODY)
        app.router.add_route("*", "/{path:.*}", self._handle)
        return app

    async def _handle(self, request: web.Request) -> web.StreamResponse:
        try:
            return await self._route(request)
        except ApiError as error:
            return _refusal(request, error)
        except web.HTTPRequestEntityTooLarge:
            too_large = ApiError(413, "RequestEntityTooLarge", f"limit is {_MAX_BODY} bytes")
            return web.Response(status=413, body=dumps(too_large.body), content_type="application/json")

    async def _route(self, request: web.Request) -> web.StreamResponse:
        if request.method not in _METHODS:
            raise _not_allowed(request.method)
        target = parse_path(request.path)
        if target is None:
            return self._static(request)
        if not self._registry.serves(target.resource):
            raise _unknown_path()
        guard = self._access.guard(request.headers.get("Authorization"), target, request.method, request.query)
        watching = request.method == "GET" and not target.subresource and _is_watch(target, request.query)
        accept = request.headers.get("Accept", "")
        encoding = choose_encoding(accept, protobuf_too=speaks_protobuf(target) and not watching)
        if watching:
            which = parse_filter(target, request.query)
            return await self._streams.serve(request, which, verbatim=encoding is Encoding.VERBATIM)
        body = await request.read()
        code, answer = self._operate(request, target, body, guard)
        return _answer(code, answer, encoding)

    def _operate(self, request: web.Request, target: Target, body: bytes, guard: Guard) -> tuple[int, JsonObject]:
        if target.subresource == "binding" and target.resource is PODS and request.method == "POST":
            self._registry.bind(target.namespace, target.name, decode_body(request.content_type, body))
            return 201, {"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success", "code": 201}
        if target.subresource and not (target.subresource == "status" and target.resource.status):
            raise not_found(target.resource, f"{target.name}/{target.subresource}")
        if not target.name:
            return self._collection(request, target, body, guard)
        return self._item(request, target, body, guard)

    def _collection(self, request: web.Request, target: Target, body: bytes, guard: Guard) -> tuple[int, JsonObject]:
        if request.method == "GET":
            return 200, self._list(target, request.query)
        if request.method == "POST" and bool(target.namespace) == target.resource.namespaced:
            options = write_options(request.query, guard)
            obj = decode_body(_body_type(request), body)
            return 201, self._registry.create(target.resource, target.namespace, obj, options)
        if request.method == "DELETE":
            return 200, self._delete_collection(target, request.query, body, guard)
        raise _not_allowed(request.method)

    def _item(self, request: web.Request, target: Target, body: bytes, guard: Guard) -> tuple[int, JsonObject]:
        resource, namespace, name = target.resource, target.namespace, target.name
        if request.method == "GET":
            return 200, self._registry.get(resource, namespace, name)
        if request.method == "PUT":
            obj = decode_body(_body_type(request), body, protobuf_too=speaks_protobuf(target))
            options = write_options(request.query, guard)
            part = target.subresource
            if resource.create_on_update and self._registry.store.get(resource, namespace, name) is None:
                return 201, self._registry.create_by_update(resource, namespace, name, obj, options)
            return 200, self._registry.update(resource, namespace, name, obj, subresource=part, options=options)
        if request.method == "PATCH":
            answer = self._registry.patch(
                resource,
                namespace,
                name,
                decode_patch(request.content_type, body, resource),
                content_type=request.content_type,
                subresource=target.subresource,
                options=write_options(request.query, guard),
            )
            return 200, answer
        if request.method == "DELETE" and not target.subresource:
            return 200, self._delete(target, request.query, body, guard)
        raise _not_allowed(request.method)

    def _delete(self, target: Target, query: Mapping[str, str], body: bytes, guard: Guard) -> JsonObject:
        options = delete_options(query, body)
        obj, gone = self._registry.delete(target.resource, target.namespace, target.name, options, guard)
        if not gone or target.resource.returns_deleted:
            return obj
        details = {"name": name_of(obj), "kind": target.resource.plural, "uid": uid_of(obj)}
        if target.resource.group:
            details["group"] = target.resource.group
        return {"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success", "details": details}

    def _delete_collection(self, target: Target, query: Mapping[str, str], body: bytes, guard: Guard) -> JsonObject:
        which, options = parse_filter(target, query), delete_options(query, body)
        store = self._registry.store
        with store.lock:
            victims = [obj for obj in store.scan(target.resource, target.namespace) if which.accepts(obj)]
            for obj in victims:
                self._registry.delete(target.resource, namespace_of(obj), name_of(obj), options, guard)
            return _list_object(target, victims, store.revision)

    def _list(self, target: Target, query: Mapping[str, str]) -> JsonObject:
        which, limit = parse_filter(target, query), number(query, "limit", 0)
        after = _decode_continue(query.get("continue", ""))
        store = self._registry.store
        with store.lock:
            items = [obj for obj in store.scan(target.resource, target.namespace) if which.accepts(obj)]
            revision = store.revision
        items = [obj for obj in items if (namespace_of(obj), name_of(obj)) > after]
        answer = _list_object(target, items[:limit] if limit else items, revision)
        if limit and len(items) > limit:
            last = items[limit - 1]
            token = base64.urlsafe_b64encode(f"{namespace_of(last)}/{name_of(last)}".encode()).decode()
            metadata(answer).update({"continue": token, "remainingItemCount": len(items) - limit})
        return answer

    def _static(self, request: web.Request) -> web.Response:
        path = request.path.rstrip("/")
        if path in ("/healthz", "/readyz", "/livez"):
            return web.Response(text="ok")
        if path == "/metrics":
            return web.Response(text=discovery.feature_metrics(self._registry.consumable_capacity))
        document = _document(path, request.host, self._registry.served())
        if document is None or request.method != "GET":
            raise _unknown_path()
        return web.Response(body=dumps(document), content_type="application/json")


def _answer(code: int, answer: JsonObject, encoding: Encoding) -> web.Response:
    if encoding is Encoding.PROTOBUF:
        # A deletion is answered with a Status where other requests are answered with the claim.
        encode = protobuf.encode_status if answer.get("kind") == "Status" else protobuf.encode_claim
        return web.Response(status=code, body=encode(answer), content_type=protobuf.MEDIA_TYPE)
    body = dumps(answer, verbatim=encoding is Encoding.VERBATIM)
    return web.Response(status=code, body=body, content_type="application/json")


def _refusal(request: web.Request, error: ApiError) -> web.Response:
    """Answer with the Status in the form that was asked for; in JSON where that form is what could not be had."""
    accept = "" if error.code == 406 else request.headers.get("Accept", "")
    try:
        encoding = choose_encoding(accept, protobuf_too=True)
    except ApiError:
        encoding = Encoding.JSON
    return _answer(error.code, error.body, encoding)


def _unknown_path() -> ApiError:
    return ApiError(404, "NotFound", "the server could not find the requested resource")


def _document(path: str, host: str, served: Sequence[Resource]) -> JsonObject | None:
    groups = discovery.group_list(served)
    fixed = {"/version": discovery.VERSION, "/apis": groups, "/api": discovery.core_versions(host)}
    if path in fixed:
        return fixed[path]
    if path == "/api/v1":
        return discovery.resource_list(served, "", "v1")
    for name, version in discovery.groups(served).items():
        if path == f"/apis/{name}":
            return discovery.group_document(name, version)
        if path == f"/apis/{name}/{version}":
            return discovery.resource_list(served, name, version)
    return None


def _is_watch(target: Target, query: Mapping[str, str]) -> bool:
    if not is_true(query, "watch"):
        return False
    if is_true(query, "sendInitialEvents"):
        text = "sendInitialEvents is forbidden for watch unless the WatchList feature gate is enabled"
        raise ApiError(422, "Invalid", f'ListOptions.meta.k8s.io "" is invalid: {target.resource.plural}: {text}')
    return True


def _body_type(request: web.Request) -> str:
    return request.content_type if "Content-Type" in request.headers else "application/json"


def _not_allowed(method: str) -> ApiError:
    return ApiError(405, "MethodNotAllowed", f"the server does not allow the method {method} on the requested resource")


def _list_object(target: Target, items: list[JsonObject], revision: int) -> JsonObject:
    # Typed lists of the real server do not repeat kind and apiVersion in their items; lists of custom resources do.
    left_out = () if target.resource.is_custom else ("kind", "apiVersion")
    return {
        "kind": f"{target.resource.kind}List",
        "apiVersion": target.resource.api_version,
        "metadata": {"resourceVersion": str(revision)},
        "items": [{key: value for key, value in item.items() if key not in left_out} for item in items],
    }


def _decode_continue(token: str) -> tuple[str, str]:
    if not token:
        return ("", "")
    try:
        namespace, _, name = base64.urlsafe_b64decode(token).decode().partition("/")
    except (binascii.Error, UnicodeDecodeError) as error:
        raise bad_request(f"continue key is not valid: {error}") from error
    return namespace, name

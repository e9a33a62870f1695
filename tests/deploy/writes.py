"""Requests of plugins, allowed and not, whose answers a real API server and the emulator must give alike.

Each case makes what it needs under a name of its own, so that all of them share a server.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

from tests.deploy.rights import allocate, allocation, entry, make_claim, make_node, make_slice
from tests.deploy.servers import MERGE_PATCH, Answer, Requests, Server

Json = dict[str, Any]
OWN: Final = "own-node"
OTHER: Final = "other-node"
_DRA: Final = "/apis/resource.k8s.io/v1"
_SLICES: Final = f"{_DRA}/resourceslices"
_CLAIMS: Final = f"{_DRA}/namespaces/default/resourceclaims"
_FOREIGN: Final = "gpu.example.com"
_TERM: Final = {"matchFields": [{"key": "metadata.name", "operator": "In", "values": [OWN]}]}
_NOT_IN: Final = {"matchFields": [{"key": "metadata.name", "operator": "NotIn", "values": [OWN]}]}
_EXPRESSION: Final = [{"key": "kubernetes.io/hostname", "operator": "In", "values": [OWN]}]


@dataclass(frozen=True)
class Users:
    """The administrator, the plugin on its node, and one whose token is bound to no pod."""

    admin: Requests
    plugin: Requests
    unbound: Requests

    @classmethod
    def of(cls, server: Server) -> Users:
        """Issue the tokens; the nodes are made if need be."""
        account = ("fracgpu-system", "fracgpu-kubeletplugin")
        for node in (OWN, OTHER):
            make_node(server.admin, node)
        return cls(server.admin, server.user(*account, node=OWN), server.user(*account))


@dataclass(frozen=True)
class Case:
    """One request and whether it is allowed; `ask` prepares it, sends it, and returns the answer."""

    name: str
    code: int
    ask: Callable[[Users, str], Answer]

    def __str__(self) -> str:
        """Return the name, for test ids."""
        return self.name


def _create(node: str | None, driver: str = "gpu.fracgpu.dev", who: str = "plugin") -> Callable[[Users, str], Answer]:
    def ask(users: Users, name: str) -> Answer:
        user: Requests = getattr(users, who)
        return user.send("POST", _SLICES, make_slice(name, node, driver))

    return ask


def _update(node: str | None, driver: str = "gpu.fracgpu.dev", who: str = "plugin") -> Callable[[Users, str], Answer]:
    def ask(users: Users, name: str) -> Answer:
        stored = users.admin.send("POST", _SLICES, make_slice(name, node, driver)).body
        stored["metadata"]["labels"] = {"a": "b"}
        user: Requests = getattr(users, who)
        return user.send("PUT", f"{_SLICES}/{name}", stored)

    return ask


def _delete(node: str | None, driver: str = "gpu.fracgpu.dev", who: str = "plugin") -> Callable[[Users, str], Answer]:
    def ask(users: Users, name: str) -> Answer:
        users.admin.send("POST", _SLICES, make_slice(name, node, driver))
        user: Requests = getattr(users, who)
        return user.send("DELETE", f"{_SLICES}/{name}")

    return ask


def _status(status: Json, *, who: str = "plugin", **changes: Any) -> Callable[[Users, str], Answer]:
    """Patch the status of a claim that is allocated as `allocation(OWN)` with `changes`."""

    def ask(users: Users, name: str) -> Answer:
        allocate(users.admin, name, {"allocation": allocation(OWN, **changes)})
        user: Requests = getattr(users, who)
        return user.send("PATCH", f"{_CLAIMS}/{name}/status", {"status": status}, content_type=MERGE_PATCH)

    return ask


def _put_status(users: Users, name: str) -> Answer:
    claim = allocate(users.admin, name, {"allocation": allocation(OWN)})
    claim["status"]["devices"] = [entry(OWN)]
    return users.plugin.send("PUT", f"{_CLAIMS}/{name}/status", claim)


def _on_the_other_node(users: Users, name: str) -> Answer:
    allocate(users.admin, name, {"allocation": allocation(OTHER)})
    body = {"status": {"devices": [entry(OTHER)]}}
    return users.plugin.send("PATCH", f"{_CLAIMS}/{name}/status", body, content_type=MERGE_PATCH)


def _unchanged_entry(users: Users, name: str) -> Answer:
    allocate(users.admin, name, {"allocation": allocation(OTHER), "devices": [entry(OTHER)]})
    claim = users.admin.send("GET", f"{_CLAIMS}/{name}").body
    return users.plugin.send("PUT", f"{_CLAIMS}/{name}/status", claim)


def _spaced_allocation(users: Users, name: str) -> Answer:
    """Any patch re-encodes parameters that were stored with spaces, which looks like a change of the allocation."""
    opaque = {"driver": "gpu.fracgpu.dev", "parameters": {"b": 1, "a": 2}}
    devices = allocation(OWN)["devices"] | {"config": [{"source": "FromClass", "opaque": opaque}]}
    return _status(_ENTRY, devices=devices)(users, name)


def _not_allocated(users: Users, name: str) -> Answer:
    users.admin.send("POST", _CLAIMS, make_claim(name))
    body = {"status": {"devices": [entry(OWN)]}}
    return users.plugin.send("PATCH", f"{_CLAIMS}/{name}/status", body, content_type=MERGE_PATCH)


def _plain(method: str, path: str, body: object = None) -> Callable[[Users, str], Answer]:
    def ask(users: Users, name: str) -> Answer:
        return users.plugin.send(method, path.format(name=name), copy.deepcopy(body))

    return ask


def _selector(terms: list[Json]) -> Json:
    return {"nodeSelector": {"nodeSelectorTerms": terms}}


_ENTRY: Final = {"devices": [entry(OWN)]}
_FOREIGN_RESULT: Final = {"request": "gpu", "driver": _FOREIGN, "pool": OWN, "device": "gpu-1"}

SLICE_CASES: Final = [
    Case("create own", 201, _create(OWN)),
    Case("update own", 200, _update(OWN)),
    Case("delete own", 200, _delete(OWN)),
    *(
        case
        for verb, ask in (("create", _create), ("update", _update), ("delete", _delete))
        for case in (
            Case(f"{verb} of other node", 403, ask(OTHER)),
            Case(f"{verb} of all nodes", 403, ask(None)),
            Case(f"{verb} of foreign driver", 403, ask(OWN, _FOREIGN)),
            Case(f"{verb} with unbound token", 403, ask(OWN, who="unbound")),
        )
    ),
]
STATUS_CASES: Final = [
    Case("patch own", 200, _status(_ENTRY)),
    Case("put own", 200, _put_status),
    Case("on other node", 422, _on_the_other_node),
    Case("unchanged on other node", 200, _unchanged_entry),
    Case("not allocated", 422, _not_allocated),
    Case("unbound token", 422, _status(_ENTRY, who="unbound")),
    Case("two terms", 422, _status(_ENTRY, **_selector([_TERM, _TERM]))),
    Case("fields and expressions", 422, _status(_ENTRY, **_selector([_TERM | {"matchExpressions": _EXPRESSION}]))),
    Case("expressions", 422, _status(_ENTRY, **_selector([{"matchExpressions": _EXPRESSION}]))),
    Case("not in", 422, _status(_ENTRY, **_selector([_NOT_IN]))),
    Case(
        "foreign driver",
        422,
        _status({"devices": [entry(OWN, driver=_FOREIGN)]}, devices={"results": [_FOREIGN_RESULT]}),
    ),
    Case("entry of another device", 422, _status({"devices": [entry(OWN, device="gpu-2")]})),
    Case("allocation re-encoded by JSON", 422, _spaced_allocation),
    Case("deallocate", 422, _status({"allocation": None})),
    Case("reserve", 422, _status({"reservedFor": [{"resource": "pods", "name": "p", "uid": "u"}]})),
]
ROLE_CASES: Final = [
    Case("list claims", 403, _plain("GET", _CLAIMS)),
    Case("watch claims", 403, _plain("GET", f"{_CLAIMS}?watch=1")),
    Case("list nodes", 403, _plain("GET", "/api/v1/nodes")),
    Case("list pods of all namespaces", 403, _plain("GET", "/api/v1/pods")),
    Case("patch the status of a node", 403, _plain("PATCH", "/api/v1/nodes/{name}/status", {})),
    Case("get a slice", 403, _plain("GET", _SLICES + "/{name}")),
    Case("patch a slice", 403, _plain("PATCH", _SLICES + "/{name}", {})),
    Case("delete all slices", 403, _plain("DELETE", _SLICES)),
    Case("create a claim", 403, _plain("POST", _CLAIMS, make_claim("x"))),
    Case("update a claim", 403, _plain("PUT", _CLAIMS + "/{name}", {})),
    Case("delete a claim", 403, _plain("DELETE", _CLAIMS + "/{name}")),
    Case("get a status", 403, _plain("GET", _CLAIMS + "/{name}/status")),
    Case("get a missing claim", 404, _plain("GET", _CLAIMS + "/{name}")),
    Case("get a missing node", 404, _plain("GET", "/api/v1/nodes/{name}")),
    Case("delete a missing slice", 404, _plain("DELETE", _SLICES + "/{name}")),
]

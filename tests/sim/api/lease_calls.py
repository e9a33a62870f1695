"""Calls on Leases, as leader election makes them and as it might, for any server: the emulator or a real one."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Final

from tests.deploy.servers import Answer, Requests

Json = dict[str, Any]
_PATH: Final = "/apis/coordination.k8s.io/v1/namespaces/{}/leases"


@dataclass(frozen=True)
class Call:
    """A lease is created with `stored` (None: it is not there), then `method` is called on it.

    `version` is the resourceVersion sent: that of the object, another one, or none. The answer has this code and
    either `text` in its message or `spec` as its spec.
    """

    name: str
    code: int
    stored: Json | None = None
    method: str = "POST"
    sent: Json = field(default_factory=dict)
    version: str = ""
    text: str = ""
    spec: Json | None = None

    def __str__(self) -> str:
        """Return the name, for test ids."""
        return self.name


def _moment(text: str, trouble: str) -> Call:
    layout = "2006-01-02T15:04:05.000000Z07:00"
    message = f'parsing time "{text}" as "{layout}": cannot parse {trouble}'
    return Call(f"time {text!r}", 400, sent={"renewTime": text}, text=message)


_HELD: Final = {"holderIdentity": "a", "leaseDurationSeconds": 15}
CALLS: Final = [
    Call("as leader election creates it", 201, sent=_HELD, spec=_HELD),
    Call("without a spec", 201, spec={}),
    Call(
        "times are shown in UTC",
        201,
        sent={"acquireTime": "2026-01-01T00:00:00.000000+00:00", "renewTime": "2026-01-01T02:00:00.500000+02:00"},
        spec={"acquireTime": "2026-01-01T00:00:00.000000Z", "renewTime": "2026-01-01T00:00:00.500000Z"},
    ),
    # What Python's isoformat() writes of a moment without microseconds.
    _moment("2026-01-01T00:00:00+00:00", '"+00:00" as ".000000"'),
    _moment("2026-01-01T00:00:00Z", '"Z" as ".000000"'),
    _moment("2026-01-01T00:00:00.1Z", '".1Z" as ".000000"'),
    _moment("2026-01-01T00:00:00.1234567Z", '"7Z" as "Z07:00"'),
    _moment("soon", '"soon" as "2006"'),
    Call("no duration", 422, sent={"leaseDurationSeconds": 0}, text="must be greater than 0"),
    Call("negative transitions", 422, sent={"leaseTransitions": -1}, text="must be greater than or equal to 0"),
    Call("behind a gate", 201, sent=_HELD | {"strategy": "x", "preferredHolder": "b"}, spec=_HELD),
    Call("taken", 409, stored=_HELD, sent=_HELD, text='leases.coordination.k8s.io "l" already exists'),
    Call("renewed", 200, stored=_HELD, method="PUT", sent=_HELD, version="its own", spec=_HELD),
    Call(
        "renewed by who has not seen the newest",
        409,
        stored=_HELD,
        method="PUT",
        sent={"holderIdentity": "b"},
        version="1",
        text="the object has been modified",
    ),
    Call(
        "renewed without having seen any",
        422,
        stored=_HELD,
        method="PUT",
        sent=_HELD,
        text="metadata.resourceVersion: Invalid value: 0: must be specified for an update",
    ),
    Call("renewed when it is gone", 201, method="PUT", sent=_HELD, version="5", spec=_HELD),
    Call("deleted", 200, stored=_HELD, method="DELETE"),
    Call("deleted when it is gone", 404, method="DELETE", text='leases.coordination.k8s.io "l" not found'),
]


def ask(server: Requests, call: Call, namespace: str = "default") -> Answer:
    """Make the call and remove what is left."""
    path = _PATH.format(namespace)
    metadata: Json = {"name": "l"}
    if call.stored is not None:
        created = server.send("POST", path, {"metadata": metadata, "spec": call.stored})
        assert created.code == 201, created.raw
        if call.version == "its own":
            metadata = created.body["metadata"]
    if call.version.isdigit():
        metadata = metadata | {"resourceVersion": call.version}
    body = None if call.method == "DELETE" else {"metadata": metadata, "spec": call.sent}
    try:
        return server.send(call.method, path if call.method == "POST" else f"{path}/l", body)
    finally:
        server.send("DELETE", f"{path}/l")


def check(answer: Answer, call: Call) -> None:
    """Compare an answer with what every server has to give."""
    assert answer.code == call.code, answer.raw
    assert call.text in answer.verdict[2]
    if call.spec is not None:
        assert answer.body["spec"] == call.spec

"""The least API server that the kubelet plugin can live with, so that its own time is measured and not this one's.

Answers from bytes that were made beforehand: a node, no slices, and one allocated claim per name. Prints its port.
"""

import asyncio
import json
import re
import sys
import uuid
from typing import Any

_CLAIM = re.compile(rb"GET /apis/resource\.k8s\.io/v1/namespaces/bench/resourceclaims/([a-z0-9-]+)")
_LENGTH = re.compile(rb"content-length: *(\d+)", re.IGNORECASE)
_GRANT_API = "gpu.fracgpu.dev/v1alpha1"


def claim_uid(name: str) -> str:
    """Return the UID that the claim `name` has here."""
    return str(uuid.uuid5(uuid.NAMESPACE_DNS, name))


def claim(name: str, device: str, node: str) -> dict[str, Any]:
    """Return a claim of 1 GiB and 5 % of `device`, allocated as our controller does it."""
    result = {"request": "gpu", "driver": "gpu.fracgpu.dev", "pool": node, "device": device}
    granted = {"request": "gpu", "pool": node, "device": device, "ordinal": 0}
    amounts = {"memoryBytes": 1 << 30, "cores": 5, "slots": 1}
    grant = {"apiVersion": _GRANT_API, "kind": "FractionGrant", "results": [granted | amounts]}
    config = {"source": "FromClass", "opaque": {"driver": "gpu.fracgpu.dev", "parameters": grant}}
    selector = {"matchFields": [{"key": "metadata.name", "operator": "In", "values": [node]}]}
    return {
        "apiVersion": "resource.k8s.io/v1",
        "kind": "ResourceClaim",
        "metadata": {"namespace": "bench", "name": name, "uid": claim_uid(name), "resourceVersion": "1"},
        "spec": {"devices": {"requests": [{"name": "gpu", "exactly": {"deviceClassName": "gpu.fracgpu.dev"}}]}},
        "status": {
            "allocation": {
                "devices": {"results": [result], "config": [config]},
                "nodeSelector": {"nodeSelectorTerms": [selector]},
            },
            "reservedFor": [{"resource": "pods", "name": f"pod-{name}", "uid": claim_uid(f"pod-{name}")}],
        },
    }


class _Connection(asyncio.Protocol):
    """One keep-alive connection; a watch is a response that never ends."""

    def __init__(self, device: str, node: str) -> None:
        self._device, self._node = device, node
        self._pending = b""
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        self._pending += data
        while b"\r\n\r\n" in self._pending:
            head, _, rest = self._pending.partition(b"\r\n\r\n")
            length = int(found[1]) if (found := _LENGTH.search(head)) else 0
            if len(rest) < length:
                return
            body, self._pending = rest[:length], rest[length:]
            self._answer(head, body)

    def _answer(self, head: bytes, body: bytes) -> None:
        assert self._transport is not None
        if b"watch=1" in head:
            self._transport.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
            return
        content = self._content(head, body)
        lead = f"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: {len(content)}\r\n\r\n"
        self._transport.write(lead.encode() + content)

    def _content(self, head: bytes, body: bytes) -> bytes:
        found = _CLAIM.match(head)
        if found:
            return json.dumps(claim(found[1].decode(), self._device, self._node), separators=(",", ":")).encode()
        if not head.startswith(b"GET"):
            return body
        if b"/nodes/" in head:
            return json.dumps({"metadata": {"name": self._node, "uid": "node-uid"}}).encode()
        return b'{"metadata":{"resourceVersion":"1"},"items":[]}'


async def _serve(device: str, node: str) -> None:
    loop = asyncio.get_running_loop()
    server = await loop.create_server(lambda: _Connection(device, node), "127.0.0.1", 0)
    print(server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(_serve(sys.argv[1], sys.argv[2]))

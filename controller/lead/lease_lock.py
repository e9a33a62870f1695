"""The Lease object of the election, through the official client's LeaseLock.

The lock does what is tedious: records to Lease and back, writes guarded by the version that was read. Its API object is
replaced by ours: the client's own waits without any time limit, renews no kubeconfig token, and drops fields of the
Lease that it does not know. What goes wrong is raised as ClusterError, past the lock, which would make False of it.
"""

from __future__ import annotations

import copy
from datetime import datetime
from typing import Any, Final, Protocol
from urllib.parse import quote

from kubernetes import client
from kubernetes.leaderelection.leaderelectionrecord import LeaderElectionRecord
from kubernetes.leaderelection.resourcelock.leaselock import LeaseLock

from fracgpu.controller.lead.record import Record
from fracgpu.driver.kube.errors import NotFound
from fracgpu.driver.kube.transport import KubernetesTransport

Json = dict[str, Any]
# Short against the renew deadline, so that one silent connection does not cost the leadership.
_READ_SECONDS: Final = 4.0
_KNOWN: Final = ("holderIdentity", "leaseDurationSeconds", "acquireTime", "renewTime")


class RecordLock(Protocol):
    """Where the replicas write down who leads. Every method raises ClusterError."""

    def read(self) -> Record | None:
        """Return what is written, None when nothing ever was."""

    def create(self, record: Record) -> None:
        """Write for the first time. Raises Conflict when somebody was faster."""

    def update(self, record: Record) -> None:
        """Replace what was read or written last. Raises Conflict when it is something else by now."""


class LeaseRecordLock:
    """RecordLock in a Lease."""

    def __init__(self, transport: KubernetesTransport, *, namespace: str, name: str) -> None:
        """Send nothing yet."""
        self._namespace, self._name = namespace, name
        self._lock: Any = LeaseLock(name, namespace, identity="")
        self._lock.api_instance = _LeaseCalls(transport)

    def read(self) -> Record | None:
        """Return what is written, None when there is no Lease."""
        try:
            _, found = self._lock.get(self._name, self._namespace)
        except NotFound:
            return None
        return Record(
            holder=found.holder_identity or "",
            duration_seconds=int(found.lease_duration or 0),
            acquired=found.acquire_time or "",
            renewed=found.renew_time or "",
            version=self._lock.lease_reference.metadata.resource_version or "",
        )

    def create(self, record: Record) -> None:
        """Create the Lease."""
        self._lock.create(self._name, self._namespace, _as_the_client_says(record))

    def update(self, record: Record) -> None:
        """Replace the record in the Lease that was read or written last."""
        self._lock.update(self._name, self._namespace, _as_the_client_says(record))


def _as_the_client_says(record: Record) -> LeaderElectionRecord:
    return LeaderElectionRecord(record.holder, record.duration_seconds, record.acquired, record.renewed)


class _LeaseCalls:
    """The three calls that LeaseLock makes, over our own transport. Keeps the Lease as it was read last."""

    def __init__(self, transport: KubernetesTransport) -> None:
        self._transport = transport
        self._raw: Json = {}

    def read_namespaced_lease(self, name: str, namespace: str) -> client.V1Lease:
        path = f"{_leases(namespace)}/{quote(name)}"
        return self._model(self._transport.json("GET", path, read_seconds=_READ_SECONDS))

    def create_namespaced_lease(self, namespace: str, body: client.V1Lease) -> client.V1Lease:
        lease = {
            "apiVersion": "coordination.k8s.io/v1",
            "kind": "Lease",
            "metadata": {"name": body.metadata.name, "namespace": namespace},
            "spec": _spec(body),
        }
        return self._model(self._transport.json("POST", _leases(namespace), body=lease, read_seconds=_READ_SECONDS))

    def replace_namespaced_lease(self, name: str, namespace: str, body: client.V1Lease) -> client.V1Lease:
        lease = copy.deepcopy(self._raw)
        lease["spec"] = {**(lease.get("spec") or {}), **_spec(body)}
        lease["metadata"]["resourceVersion"] = body.metadata.resource_version
        path = f"{_leases(namespace)}/{quote(name)}"
        stored = self._transport.json("PUT", path, body=lease, read_seconds=_READ_SECONDS)
        # LeaseLock keeps the version that it read, with which a second write in a row would be refused.
        body.metadata.resource_version = stored["metadata"]["resourceVersion"]
        return self._model(stored)

    def _model(self, lease: Json) -> client.V1Lease:
        self._raw = lease
        # Only what the lock looks at goes into the model: the rest stays as it is, known to the client or not.
        spec = lease.get("spec") or {}
        known = {name: spec.get(name) for name in _KNOWN}
        metadata = lease.get("metadata") or {}
        header = {name: metadata.get(name) for name in ("name", "namespace", "uid", "resourceVersion")}
        found = client.V1Lease.from_dict({"metadata": header, "spec": known})
        assert found is not None  # noqa: S101 (from_dict answers None for None alone)
        return found


def _spec(lease: client.V1Lease) -> Json:
    spec: Any = lease.spec
    return {
        "holderIdentity": spec.holder_identity,
        "leaseDurationSeconds": spec.lease_duration_seconds,
        "acquireTime": _micro_time(spec.acquire_time),
        "renewTime": _micro_time(spec.renew_time),
    }


def _micro_time(moment: datetime) -> str:
    # The API server wants exactly six digits, which isoformat leaves out when they are zeros.
    return moment.isoformat(timespec="microseconds").replace("+00:00", "Z")


def _leases(namespace: str) -> str:
    return f"/apis/coordination.k8s.io/v1/namespaces/{quote(namespace)}/leases"

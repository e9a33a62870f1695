"""Events on pods, as the kubelet records them: one object per kind of news, counted when it repeats."""

from __future__ import annotations

import logging
import threading
import uuid

from fracgpu.sim.node.api import Json, KubeApi
from fracgpu.sim.node.clock import now
from fracgpu.sim.transport import ApiRefusedError, ApiUnreachableError

_LOG = logging.getLogger(__name__)


class EventRecorder:
    """Writes core/v1 events of one node; safe to use from several threads, and never in anybody's way."""

    def __init__(self, api: KubeApi, node_name: str) -> None:
        self._api = api
        self._source = {"component": "kubelet", "host": node_name}
        self._lock = threading.Lock()
        self._written: dict[tuple[str, str, str], tuple[str, int]] = {}

    def normal(self, pod: Json, reason: str, message: str) -> None:
        """Record a piece of good news about ``pod``."""
        self._record(pod, "Normal", reason, message)

    def warning(self, pod: Json, reason: str, message: str) -> None:
        """Record a piece of bad news about ``pod``."""
        self._record(pod, "Warning", reason, message)

    def _record(self, pod: Json, kind: str, reason: str, message: str) -> None:
        metadata = pod["metadata"]
        path = f"/api/v1/namespaces/{metadata['namespace']}/events"
        key = (metadata["uid"], reason, message)
        _LOG.info("%s", message, extra={"pod": f"{metadata['namespace']}/{metadata['name']}", "event": reason})
        with self._lock:
            name, count = self._written.get(key, (f"{metadata['name']}.{uuid.uuid4().hex[:16]}", 0))
            self._written[key] = (name, count + 1)
            try:
                if count:
                    self._api.merge_patch(f"{path}/{name}", {"count": count + 1, "lastTimestamp": now()})
                else:
                    self._api.create(path, self._event(pod, kind, reason, message, name))
            except (ApiRefusedError, ApiUnreachableError) as error:
                # An event lost is news lost, no more: the namespace may be going away.
                _LOG.debug("event not recorded reason=%s error=%s", reason, error)

    def _event(self, pod: Json, kind: str, reason: str, message: str, name: str) -> Json:
        metadata = pod["metadata"]
        return {
            "apiVersion": "v1",
            "kind": "Event",
            "metadata": {"name": name, "namespace": metadata["namespace"]},
            "involvedObject": {
                "apiVersion": "v1",
                "kind": "Pod",
                "namespace": metadata["namespace"],
                "name": metadata["name"],
                "uid": metadata["uid"],
            },
            "type": kind,
            "reason": reason,
            "message": message,
            "source": self._source,
            "reportingComponent": self._source["component"],
            "reportingInstance": self._source["host"],
            "count": 1,
            "firstTimestamp": now(),
            "lastTimestamp": now(),
        }

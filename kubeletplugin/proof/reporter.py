"""Reports what the observer sees to the claims, in a thread of its own: an API server that hangs delays no look.

Only the newest observation counts. What could not be written is written with the newest when it works again; nothing
queues up, and nothing that goes wrong here reaches Prepare.
"""

import logging
import time
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Final

from opentelemetry.trace import NoOpTracer, Tracer

from fracgpu.driver.kube.errors import ClusterError
from fracgpu.driver.names import DRIVER_NAME
from fracgpu.driver.process.background import Wait
from fracgpu.kubeletplugin.api.cluster import ClaimStatusApi, Json
from fracgpu.kubeletplugin.prepare.claim import ClaimRef
from fracgpu.kubeletplugin.proof.claim_writer import ClaimWriter, Outcome, WriteResult
from fracgpu.kubeletplugin.proof.device_status import DeviceReport, make_reports, updated_devices
from fracgpu.kubeletplugin.proof.events import enforcement_events
from fracgpu.kubeletplugin.proof.members import ClaimConsumers
from fracgpu.kubeletplugin.proof.observation import AllocationObservation, NodeObservation
from fracgpu.kubeletplugin.proof.pace import ClaimPace, TokenBucket
from fracgpu.kubeletplugin.tracing import claim_operation

_LOG: Final = logging.getLogger(__name__)
_LOOK_SECONDS: Final = 0.5
# A verdict that goes back and forth is told once in a while; the condition on the claim always is the last one.
_EVENT_SECONDS: Final = 60.0
_MOST_TOLD: Final = 256
_RIGHTS: Final = (
    f"allow associated-node:patch and associated-node:update on resourceclaims/driver {DRIVER_NAME}, "
    "get on resourceclaims, patch and update on resourceclaims/status, with a token that is bound to a pod of this node"
)
# What is wrong with all claims alike, in words where the API server has none, and its remedy.
_OF_ALL: Final[Mapping[str, tuple[str, str]]] = {
    Outcome.FORBIDDEN: ("", _RIGHTS),
    Outcome.DROPPED: (
        "the API server keeps nothing of status.devices",
        "enable the feature gate DRAResourceClaimDeviceStatus; limits hold, events and metrics say the same",
    ),
}

OutcomeListener = Callable[[ClaimRef, Outcome], None]
"""Is told of every attempt to write; for metrics."""


class StatusReporter:
    """Keeps the status of this node's claims. `observe` is the observer's listener; one thread calls `run`."""

    def __init__(
        self,
        *,
        node_name: str,
        cluster: ClaimStatusApi,
        consumers: ClaimConsumers,
        on_outcome: OutcomeListener = lambda _ref, _outcome: None,
        tracer: Tracer | None = None,
        clock: Callable[[], float] = time.monotonic,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        """`clock` gives monotonic seconds for pauses, `now` the time that is written."""
        self._node_name = node_name
        self._cluster = cluster
        self._consumers = consumers
        self._on_outcome = on_outcome
        self._tracer = tracer or NoOpTracer()
        self._clock = clock
        self._now = now
        self._writer = ClaimWriter(cluster, now=now)
        self._bucket = TokenBucket()
        self._paces: dict[str, ClaimPace] = {}
        self._told: dict[tuple[str, str], float] = {}
        self._complained: set[str] = set()
        self._observation: NodeObservation | None = None

    def observe(self, observation: NodeObservation) -> None:
        """Take the newest observation; it is reported by the reporter's own thread."""
        self._observation = observation

    def run(self, wait: Wait) -> None:
        """Report until `wait` says stop."""
        while not wait(_LOOK_SECONDS):
            try:
                self.step()
            except Exception:
                _LOG.exception("claims not reported on")

    def step(self) -> None:
        """Write what is due now. Claims that had to wait go first."""
        observation = self._observation
        if observation is None:
            return
        claims: dict[str, list[AllocationObservation]] = {}
        for one in observation.allocations:
            claims.setdefault(one.claim.uid, []).append(one)
        self._forget_all_but(frozenset(claims))
        waiting = sorted(claims, key=lambda uid: self._paces.setdefault(uid, ClaimPace()).not_before)
        for uid in waiting:
            reports = make_reports(claims[uid])
            if self._paces[uid].is_due(reports, self._clock()):
                if not self._bucket.take(self._clock()):
                    return
                self._report(claims[uid][0].claim, reports)

    def _report(self, ref: ClaimRef, reports: tuple[DeviceReport, ...]) -> None:
        fields = _fields(ref, reports)
        with claim_operation(self._tracer, "status.write", ref) as current:
            result = self._writer.write(ref, reports)
            current.ended(result.outcome.value)
        former = self._paces[ref.uid].written
        self._paces[ref.uid].record(result.outcome, reports, self._clock())
        if result.claim is not None:
            self._consumers.learn(ref.uid, result.claim)
        self._complain(ref, result, fields)
        if result.outcome in (Outcome.WRITTEN, Outcome.DROPPED) and result.claim is not None:
            claim = self._as_told(result.claim, former) if result.outcome is Outcome.DROPPED else result.claim
            for event in enforcement_events(ref, claim, reports, node_name=self._node_name, now=self._now()):
                self._tell(ref, event, fields)
        self._on_outcome(ref, result.outcome)

    def _as_told(self, claim: Json, former: tuple[DeviceReport, ...] | None) -> Json:
        """Return the claim with the entries that it would have if what was reported before had been kept."""
        devices = updated_devices(claim, former, self._now()) if former else None
        return {**claim, "status": {**claim["status"], "devices": devices}} if devices else claim

    def _complain(self, ref: ClaimRef, result: WriteResult, fields: Mapping[str, str]) -> None:
        """Log what keeps a status from being written: of all claims once for all of them, of one once for each."""
        if result.outcome is Outcome.WRITTEN:
            self._complained -= {ref.uid, *_OF_ALL}
        if result.outcome in _OF_ALL and result.outcome not in self._complained:
            self._complained.add(result.outcome)
            error, remedy = _OF_ALL[result.outcome]
            _LOG.warning("claims not reported on", extra={"error": result.error or error, "remedy": remedy})
        elif result.outcome in (Outcome.REFUSED, Outcome.CONFLICT, Outcome.UNAVAILABLE):
            if ref.uid not in self._complained:
                _LOG.warning("claim not reported on", extra={**fields, "error": result.error})
            self._complained.add(ref.uid)

    def _tell(self, ref: ClaimRef, event: Json, fields: Mapping[str, str]) -> None:
        key = (str(event["involvedObject"]["uid"]), str(event["reason"]))
        now = self._clock()
        if now - self._told.get(key, -_EVENT_SECONDS) < _EVENT_SECONDS:
            return
        self._told[key] = now
        try:
            self._cluster.create_event(ref.namespace, event)
        except ClusterError as error:
            # News that is lost, no more: the condition on the claim says the same.
            _LOG.debug("event not made", extra={**fields, "error": str(error)})

    def _forget_all_but(self, uids: frozenset[str]) -> None:
        self._paces = {uid: pace for uid, pace in self._paces.items() if uid in uids}
        self._complained &= {*uids, *_OF_ALL}
        self._writer.keep_only(uids)
        if len(self._told) > _MOST_TOLD:
            horizon = self._clock() - _EVENT_SECONDS
            self._told = {key: when for key, when in self._told.items() if when > horizon}


def _fields(ref: ClaimRef, reports: tuple[DeviceReport, ...]) -> dict[str, str]:
    gpus = dict.fromkeys(str(report.data["gpuUUID"]) for report in reports)
    return {"claim": f"{ref.namespace}/{ref.name}", "uid": ref.uid, "gpu": ",".join(gpus)}

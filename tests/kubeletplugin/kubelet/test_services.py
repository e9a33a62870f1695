"""What is told of one call: the answer to the kubelet, a span, a metric and one log line."""

import logging
from collections.abc import Callable
from typing import Any

import pytest
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from fracgpu.driver.codes import ReasonCode
from fracgpu.driver.errors import AmountsDropped
from fracgpu.driver.log import LogfmtFormatter
from fracgpu.kubeletplugin.errors import ClaimInvalid, ClaimRefused
from fracgpu.kubeletplugin.kubelet.services import DraService
from fracgpu.kubeletplugin.prepare.claim import ClaimRef
from fracgpu.kubeletplugin.prepare.deadline import Deadline
from fracgpu.kubeletplugin.prepare.outcome import PreparedClaim, ReleasedClaim
from fracgpu.kubeletplugin.prepare.plan import PreparedDevice
from fracgpu.kubeletplugin.telemetry.metrics import PluginMetrics
from fracgpu.kubeletplugin.tracing import about, step
from fracgpu.proto.dra.v1 import api_pb2

GPU = "GPU-11111111-1111-1111-1111-111111111111"
DEVICE = PreparedDevice(
    request_names=("gpu",), pool="n1", device="gpu-11111111", cdi_device_ids=("gpu.fracgpu.dev/claim=a",), share_id=None
)
PREPARED = PreparedClaim(devices=(DEVICE,), pods=("ns/p1", "ns/p2"), gpu_uuids=(GPU,))


class Context:
    """What the service asks of a gRPC call; the caller waits for 45 s."""

    def time_remaining(self) -> float:
        return 45.0


CONTEXT: Any = Context()


class Told:
    """A service whose preparer does what the test says, with everything that it tells."""

    def __init__(self) -> None:
        self.does: Callable[[ClaimRef], Any] = lambda _: PREPARED
        self.deadlines: list[Deadline | None] = []
        self.spans = InMemorySpanExporter()
        tracers = TracerProvider()
        tracers.add_span_processor(SimpleSpanProcessor(self.spans))
        self.reader = InMemoryMetricReader()
        meter = MeterProvider([self.reader], shutdown_on_exit=False).get_meter("tests")
        self.times = iter([100.0, 100.25] * 10)
        self.service = DraService(
            self,
            metrics=PluginMetrics(meter),
            tracer=tracers.get_tracer("tests"),
            clock=lambda: next(self.times),
        )

    def prepare(self, ref: ClaimRef, deadline: Deadline | None = None) -> PreparedClaim:
        self.deadlines.append(deadline)
        result: PreparedClaim = self.does(ref)
        return result

    def unprepare(self, ref: ClaimRef, deadline: Deadline | None = None) -> ReleasedClaim:
        self.deadlines.append(deadline)
        result: ReleasedClaim = self.does(ref)
        return result

    def asked_to_prepare(self, *names: str) -> Any:
        claims = [api_pb2.Claim(namespace="ns", name=name, uid=f"uid-{name}") for name in names]
        request = api_pb2.NodePrepareResourcesRequest(claims=claims)
        return self.service.NodePrepareResources(request, CONTEXT).claims

    def asked_to_unprepare(self) -> Any:
        request = api_pb2.NodeUnprepareResourcesRequest(claims=[api_pb2.Claim(namespace="ns", name="c", uid="uid-c")])
        return self.service.NodeUnprepareResources(request, CONTEXT).claims["uid-c"]

    def durations(self) -> dict[tuple[Any, Any], float]:
        """Seconds by op and outcome."""
        data = self.reader.get_metrics_data()
        assert data is not None
        found: dict[tuple[Any, Any], float] = {}
        for metric in data.resource_metrics[0].scope_metrics[0].metrics:
            if metric.name == "fracgpu_claim_operation_duration_seconds":
                for point in metric.data.data_points:
                    assert point.attributes is not None
                    found[point.attributes["op"], point.attributes["outcome"]] = point.sum  # type: ignore[union-attr]
        return found


@pytest.fixture
def told() -> Told:
    return Told()


@pytest.fixture
def line(caplog: pytest.LogCaptureFixture) -> Callable[[], str]:
    caplog.set_level(logging.INFO)

    def only_line() -> str:
        (record,) = caplog.records
        return f"{record.levelname} {LogfmtFormatter().format(record).split(' ', 2)[2]}"

    return only_line


def test_a_prepared_claim_is_told_of_with_its_pods_and_gpus(told: Told, line: Callable[[], str]) -> None:
    answer = told.asked_to_prepare("c")["uid-c"]
    assert answer.error == ""
    assert list(answer.devices[0].cdi_device_ids) == ["gpu.fracgpu.dev/claim=a"]
    (span,) = told.spans.get_finished_spans()
    assert span.name == "fracgpu.prepare"
    assert dict(span.attributes or {}) == {
        "k8s.namespace.name": "ns",
        "fracgpu.claim.name": "c",
        "fracgpu.claim.uid": "uid-c",
        "fracgpu.pods": ("ns/p1", "ns/p2"),
        "fracgpu.gpu.uuids": (GPU,),
        "fracgpu.outcome": "ok",
    }
    assert told.durations() == {("prepare", "ok"): 0.25}
    assert span.context is not None
    assert line() == (
        'INFO logger=fracgpu.kubeletplugin.kubelet.services msg="claim prepared" op=prepare claim=ns/c pod=ns/p1,ns/p2'
        f" gpu={GPU} outcome=ok seconds=0.2500 trace_id={span.context.trace_id:032x} uid=uid-c"
    )


REFUSALS = [
    (ClaimRefused("claim ns/c", "too much", code=ReasonCode.CARD_INSUFFICIENT_MEMORY, remedy="ask for less"),
     "CardInsufficientMemory"),
    (AmountsDropped("claim ns/c", "no amounts", remedy="update the API server"), "AmountsDropped"),
    (ClaimInvalid("claim ns/c", "does not exist", remedy="delete the pod"), "ClaimInvalid"),
]  # fmt: skip


@pytest.mark.parametrize(("error", "outcome"), REFUSALS, ids=[outcome for _, outcome in REFUSALS])
def test_a_refusal_has_one_code_in_metric_span_and_log_and_names_what_was_known(
    told: Told, line: Callable[[], str], error: Exception, outcome: str
) -> None:
    def refuse(_: ClaimRef) -> PreparedClaim:
        about(pods=["ns/p1"], gpu_uuids=[GPU])
        raise error

    told.does = refuse
    assert told.asked_to_prepare("c")["uid-c"].error == str(error)
    assert told.durations() == {("prepare", outcome): 0.25}
    (span,) = told.spans.get_finished_spans()
    assert (span.attributes or {})["fracgpu.outcome"] == outcome
    assert not span.status.is_ok
    assert [event.name for event in span.events] == ["exception"]
    text = line()
    assert text.startswith("WARNING ")
    for part in ('msg="claim refused"', "claim=ns/c", "pod=ns/p1", f"gpu={GPU}", f"outcome={outcome}", "uid=uid-c"):
        assert part in text
    assert str(error) in text


FAILURES = [
    (OSError(28, "No space left on device"), "OSError", "check the file systems of this node, it is tried again"),
    (KeyError("pool"), "Defect", "KeyError: 'pool'; report this as a defect of fracgpu, with the plugin's log"),
]


@pytest.mark.parametrize(("error", "outcome", "text"), FAILURES, ids=[outcome for _, outcome, _ in FAILURES])
def test_a_failure_is_the_claims_answer_and_logged_with_its_stack(
    told: Told, line: Callable[[], str], error: Exception, outcome: str, text: str
) -> None:
    def fail(_: ClaimRef) -> PreparedClaim:
        raise error

    told.does = fail
    assert text in told.asked_to_prepare("c")["uid-c"].error
    assert told.durations() == {("prepare", outcome): 0.25}
    logged = line()
    assert logged.startswith("ERROR ")
    assert "Traceback" in logged
    assert f"outcome={outcome}" in logged
    # Nothing was learned, so nothing is said: no field with an empty value.
    assert " pod=" not in logged
    assert " gpu=" not in logged


RELEASES = [
    (ReleasedClaim(known=True, gpu_uuids=(GPU,)), "claim released", f"gpu={GPU}"),
    (
        ReleasedClaim(known=True, deferred=True, gpu_uuids=(GPU,)),
        "claim release deferred: processes still use its files",
        f"gpu={GPU}",
    ),
    (ReleasedClaim(known=False), "claim was not prepared here", "op=unprepare"),
]


@pytest.mark.parametrize(("released", "message", "part"), RELEASES, ids=["released", "deferred", "unknown"])
def test_a_release_says_what_became_of_the_claim(
    told: Told, line: Callable[[], str], released: ReleasedClaim, message: str, part: str
) -> None:
    told.does = lambda _: released
    assert told.asked_to_unprepare().error == ""
    assert told.durations() == {("unprepare", "ok"): 0.25}
    assert told.spans.get_finished_spans()[0].name == "fracgpu.unprepare"
    assert f'msg="{message}"' in line()
    assert part in line()


def test_each_claim_of_a_batch_is_told_of_on_its_own(told: Told, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)

    def one_is_bad(ref: ClaimRef) -> PreparedClaim:
        if ref.name == "bad":
            about(pods=["ns/bad-pod"])
            raise ClaimInvalid(str(ref), "is bad", remedy="make it good")
        return PREPARED

    told.does = one_is_bad
    answers = told.asked_to_prepare("bad", "good")
    assert answers["uid-bad"].error == "claim ns/bad: is bad; make it good"
    assert answers["uid-good"].error == ""
    assert told.durations() == {("prepare", "ClaimInvalid"): 0.25, ("prepare", "ok"): 0.25}
    first, second = (LogfmtFormatter().format(record) for record in caplog.records)
    assert "pod=ns/bad-pod" in first
    assert "pod=ns/p1,ns/p2" in second
    assert len({span.context.trace_id for span in told.spans.get_finished_spans() if span.context}) == 2


def test_the_claims_of_a_call_share_what_time_its_caller_leaves_them(told: Told) -> None:
    told.asked_to_prepare("a", "b")
    first, second = told.deadlines
    assert first is not None
    assert first is second
    assert 0 < first.remaining_seconds <= 40


def test_steps_are_spans_below_the_call(told: Told) -> None:
    def in_steps(_: ClaimRef) -> PreparedClaim:
        with step("read_claim"):
            pass
        with step("apply"):
            pass
        return PREPARED

    told.does = in_steps
    told.asked_to_prepare("c")
    first, second, call = told.spans.get_finished_spans()
    assert [first.name, second.name] == ["fracgpu.step.read_claim", "fracgpu.step.apply"]
    assert call.context is not None
    assert [span.parent.span_id for span in (first, second) if span.parent] == [call.context.span_id] * 2


def test_a_service_without_telemetry_works_and_logs_no_trace(line: Callable[[], str]) -> None:
    told = Told()
    told.service = DraService(told)
    assert told.asked_to_prepare("c")["uid-c"].error == ""
    assert "trace_id" not in line()
    assert "pod=ns/p1,ns/p2" in line()

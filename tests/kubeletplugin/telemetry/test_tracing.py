"""Operations, steps and what is learned on the way."""

import threading
from typing import Any

import pytest
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import NoOpTracer, Tracer

from fracgpu.kubeletplugin.tracing import about, operation, step


@pytest.fixture
def spans() -> InMemorySpanExporter:
    return InMemorySpanExporter()


@pytest.fixture
def tracer(spans: InMemorySpanExporter) -> Tracer:
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(spans))
    return provider.get_tracer("tests")


def test_outside_of_an_operation_nothing_happens(spans: InMemorySpanExporter) -> None:
    about(pods=["ns/p"])
    with step("apply"):
        pass
    assert spans.get_finished_spans() == ()


def test_untraced_an_operation_still_learns() -> None:
    with operation(NoOpTracer(), "slice.sync") as current:
        about(pods=["ns/p"])
        with step("apply"):
            about(gpu_uuids=["GPU-1"])
    assert (current.pods, current.gpu_uuids, current.trace_id) == (("ns/p",), ("GPU-1",), None)


def test_what_is_learned_twice_is_said_once(tracer: Tracer, spans: InMemorySpanExporter) -> None:
    with operation(tracer, "prepare") as current:
        about(pods=["ns/a"])
        about(pods=["ns/b", "ns/a"], gpu_uuids=["GPU-1"])
    about(pods=["ns/somebody-else"])
    assert current.pods == ("ns/a", "ns/b")
    (span,) = spans.get_finished_spans()
    assert dict(span.attributes or {}) == {"fracgpu.pods": ("ns/a", "ns/b"), "fracgpu.gpu.uuids": ("GPU-1",)}


def test_steps_nest_and_one_that_fails_fails_its_span_and_goes_on_up(
    tracer: Tracer, spans: InMemorySpanExporter
) -> None:
    with pytest.raises(OSError, match="full"), operation(tracer, "slice.sync"), step("outer"), step("inner"):
        raise OSError("full")
    inner, outer, root = spans.get_finished_spans()
    assert [span.name for span in (inner, outer, root)] == [
        "fracgpu.step.inner",
        "fracgpu.step.outer",
        "fracgpu.slice.sync",
    ]
    assert inner.parent == outer.context
    assert outer.parent == root.context
    assert not any(span.status.is_ok for span in (inner, outer, root))
    with step("later"):
        pass
    assert len(spans.get_finished_spans()) == 3


def test_operations_of_two_threads_do_not_mix(tracer: Tracer) -> None:
    both = threading.Barrier(2)
    learned: dict[str, Any] = {}

    def work(name: str) -> None:
        with operation(tracer, "prepare") as current:
            both.wait(60)
            about(pods=[f"ns/{name}"])
            both.wait(60)
            learned[name] = current.pods

    threads = [threading.Thread(target=work, args=(name,)) for name in "ab"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert learned == {"a": ("ns/a",), "b": ("ns/b",)}

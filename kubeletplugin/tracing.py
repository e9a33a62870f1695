"""What one call of the plugin is about, and how its time is spent.

A slow Prepare has a reason in one place: the API server, NVML, the node lock, the disk. Code deep inside says where it
is with `step` and what it has learned with `about`, without a tracer handed through every signature: both find the
operation around them in a context variable, and do nothing where there is none. So a refusal's log line can name pods
and GPUs although the call that knew them has raised.

A context variable belongs to one thread; a worker thread that does part of an operation is covered by the step of the
thread that waits for it.
"""

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Final

from opentelemetry.trace import Span, Status, StatusCode, Tracer

from fracgpu.kubeletplugin.prepare.claim import ClaimRef

_SPAN_PREFIX: Final = "fracgpu."
_OUTCOME: Final = "fracgpu.outcome"


class Operation:
    """One piece of work with a span: what is known of it so far, and how it ended.

    `pods` are `namespace/name`, `gpu_uuids` UUIDs as `nvidia-smi -L` shows them; both empty until somebody knows.
    """

    def __init__(self, tracer: Tracer, span: Span) -> None:
        self.tracer = tracer
        self.span = span
        self.pods: tuple[str, ...] = ()
        self.gpu_uuids: tuple[str, ...] = ()

    @property
    def trace_id(self) -> str | None:
        """The trace's id in hexadecimal digits, None where nothing is recorded."""
        return f"{self.span.get_span_context().trace_id:032x}" if self.span.is_recording() else None

    def learned(self, *, pods: Iterable[str] = (), gpu_uuids: Iterable[str] = ()) -> None:
        """Add pods and GPUs that the work turned out to be about; what is known already is not repeated."""
        self.pods = tuple(dict.fromkeys((*self.pods, *pods)))
        self.gpu_uuids = tuple(dict.fromkeys((*self.gpu_uuids, *gpu_uuids)))
        self.span.set_attribute("fracgpu.pods", self.pods)
        self.span.set_attribute("fracgpu.gpu.uuids", self.gpu_uuids)

    def ended(self, outcome: str, error: BaseException | None = None) -> None:
        """State the outcome, the same word as in the metrics; with `error` the span counts as failed."""
        self.span.set_attribute(_OUTCOME, outcome)
        if error is not None:
            self.span.record_exception(error)
            self.span.set_status(Status(StatusCode.ERROR, str(error)))


_CURRENT: Final[ContextVar[Operation | None]] = ContextVar("fracgpu_operation", default=None)


@contextmanager
def operation(tracer: Tracer, name: str, attributes: Mapping[str, str] | None = None) -> Iterator[Operation]:
    """Make the block one operation, with the span `fracgpu.<name>`; what it raises passes and fails the span."""
    with tracer.start_as_current_span(_SPAN_PREFIX + name, attributes=attributes) as span:
        current = Operation(tracer, span)
        token = _CURRENT.set(current)
        try:
            yield current
        finally:
            _CURRENT.reset(token)


@contextmanager
def claim_operation(tracer: Tracer, op: str, ref: ClaimRef) -> Iterator[Operation]:
    """Make the block the operation `op` (prepare, unprepare) on one claim."""
    attributes = {
        "k8s.namespace.name": ref.namespace,
        "fracgpu.claim.name": ref.name,
        "fracgpu.claim.uid": ref.uid,
    }
    with operation(tracer, op, attributes) as current:
        yield current


@contextmanager
def step(name: str) -> Iterator[None]:
    """Give the block a span `fracgpu.step.<name>` below the operation around it; without one, or untraced, nothing."""
    current = _CURRENT.get()
    if current is None or not current.span.is_recording():
        yield
        return
    with current.tracer.start_as_current_span(f"{_SPAN_PREFIX}step.{name}"):
        yield


def about(*, pods: Iterable[str] = (), gpu_uuids: Iterable[str] = ()) -> None:
    """Tell the operation around the caller, if there is one, which pods and GPUs it is about."""
    current = _CURRENT.get()
    if current is not None:
        current.learned(pods=pods, gpu_uuids=gpu_uuids)

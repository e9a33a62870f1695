"""Device selectors of classes and claims: CEL, evaluated by Google's library.

What the library does not have of Kubernetes' CEL is refused by name and never skipped: a selector that is ignored would
hand out GPUs that somebody meant to keep.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any, ClassVar, Final

from fracgpu.controller.fit.views import AnyGpu, GpuView, Selector
from fracgpu.controller.objects.selector_reads import Read, domains_of, reads_of
from fracgpu.driver.errors import FracgpuError
from fracgpu.driver.names import (
    ALLOCATOR_SCHEDULER,
    ATTR_ALLOCATOR,
    ATTR_ARCHITECTURE,
    ATTR_BRAND,
    ATTR_CUDA_COMPUTE_CAPABILITY,
    ATTR_CUDA_DRIVER_VERSION,
    ATTR_DRIVER_VERSION,
    ATTR_PRODUCT_NAME,
    ATTR_UUID,
    CAPACITY_CORES,
    CAPACITY_MEMORY,
    CAPACITY_SLOTS,
    DRIVER_NAME,
)
from fracgpu.driver.reasons import ReasonCode

_VERSIONS: Final = frozenset({ATTR_DRIVER_VERSION, ATTR_CUDA_DRIVER_VERSION, ATTR_CUDA_COMPUTE_CAPABILITY})
_OF_A_TYPE: Final = frozenset({ATTR_PRODUCT_NAME, ATTR_BRAND, ATTR_ARCHITECTURE, ATTR_CUDA_COMPUTE_CAPABILITY})
_KNOWN_PROGRAMS: Final = 512
_KNOWN_ANSWERS: Final = 4096
_LONGEST_TEXT: Final = 160
_STATUS: Final = re.compile(r"^[A-Z_]+: ")
_POSITION: Final = re.compile(r"^ERROR: <input>:\d+:\d+: ")


class SelectorNotSupported(FracgpuError):
    """A CEL expression that is none, or that uses what this CEL does not have."""

    code: ClassVar[ReasonCode] = ReasonCode.SELECTOR_NOT_SUPPORTED


class SelectorFailed(SelectorNotSupported):
    """A CEL expression that cannot be evaluated for a device: a missing key, values of two kinds, or no bool."""

    code: ClassVar[ReasonCode] = ReasonCode.SELECTOR_FAILED


@dataclass(frozen=True, slots=True)
class CelSelector:
    """All of some CEL expressions must hold. Equal if the expressions are, whoever wrote them.

    `subject` names whose they are, for error texts.
    """

    expressions: tuple[str, ...]
    subject: str = field(default="selector", compare=False)

    def matches(self, gpu: GpuView) -> bool:
        """Tell whether all expressions hold for a GPU. Raises SelectorFailed."""
        return self._first_that_fails(gpu) is None

    def why_not(self, gpu: GpuView) -> tuple[ReasonCode, str]:
        """Return why a GPU is not selected: a code, and the expression that did not hold.

        CardUuidMismatch if that expression reads the uuid, else CardTypeMismatch if it reads what tells types of cards
        apart (product name, brand, architecture, compute capability), else SelectorMismatch.
        """
        expression = self._first_that_fails(gpu)
        if expression is None:
            raise ValueError("the GPU is selected")
        return _refusal(expression)

    def _first_that_fails(self, gpu: GpuView) -> str | None:
        for expression in self.expressions:
            answer = _program(expression).answer(gpu)
            if isinstance(answer, str):
                raise self._failed(expression, answer)
            if not answer:
                return expression
        return None

    def _failed(self, expression: str, text: str) -> SelectorFailed:
        what = f"CEL expression {_shown(expression)!r} cannot be evaluated for a GPU: {text}"
        remedy = "write it so that it can be told for every GPU; guard what one may not have, as .?name.orValue('')"
        return SelectorFailed(self.subject, what, remedy=remedy)


def selector_of(expressions: Sequence[str], subject: str) -> Selector:
    """Return the selector of some CEL expressions, all of which must hold; `subject` names them in error texts.

    Raises SelectorNotSupported.
    """
    if not expressions:
        return AnyGpu()
    for expression in expressions:
        try:
            _program(expression)
        except RuntimeError as error:
            what = f"CEL expression {_shown(expression)!r} is not understood: {_first_line(str(error))}"
            remedy = "use what docs/dev/fit-engine.md lists of CEL"
            raise SelectorNotSupported(subject, what, remedy=remedy) from error
    return CelSelector(tuple(expressions), subject)


@lru_cache(maxsize=_KNOWN_PROGRAMS)
def _refusal(expression: str) -> tuple[ReasonCode, str]:
    ours = ("attributes", DRIVER_NAME)
    names = {name for part, domain, name in reads_of(expression) or () if (part, domain) == ours}
    code = ReasonCode.SELECTOR_MISMATCH
    if ATTR_UUID in names:
        code = ReasonCode.CARD_UUID_MISMATCH
    elif names & _OF_A_TYPE:
        code = ReasonCode.CARD_TYPE_MISMATCH
    return (code, f"not selected by {_shown(expression)}")


class _Program:
    """A compiled expression with the answers it gave, kept by what it reads of a GPU."""

    def __init__(self, expression: str) -> None:
        # Here, because loading the library takes time that commands without selectors need not spend.
        from fracgpu.controller.objects.cel_library import environment

        self._compiled = environment().compile(expression)
        self._domains = domains_of(expression)
        self._reads = reads_of(expression)
        self._answers: dict[object, bool | str] = {}

    def answer(self, gpu: GpuView) -> bool | str:
        """Return whether the expression holds, or why it cannot be told."""
        if self._reads is None:
            return self._evaluate(gpu)
        key = _read(gpu, self._reads)
        known = self._answers.get(key)
        if known is None:
            known = self._evaluate(gpu)
            if len(self._answers) >= _KNOWN_ANSWERS:
                self._answers.clear()
            self._answers[key] = known
        return known

    def _evaluate(self, gpu: GpuView) -> bool | str:
        try:
            result = self._compiled.eval(data={"device": _device(gpu, self._domains)})
        except RuntimeError as error:
            return _first_line(str(error))
        value = result.value()
        if isinstance(value, bool):
            return value
        kind = result.type().name()
        return _first_line(str(value)) if kind == "ERROR" else f"it must evaluate to bool, not {kind.lower()}"


@lru_cache(maxsize=_KNOWN_PROGRAMS)
def _program(expression: str) -> _Program:
    return _Program(expression)


def _read(gpu: GpuView, reads: Sequence[Read]) -> object:
    """Return what an expression reads of a GPU; GPUs that are equal in it get the same answer."""
    found: list[object] = []
    for part, domain, name in reads:
        if part == "capacity":
            found.append(_CAPACITIES[name](gpu) if domain == DRIVER_NAME and name in _CAPACITIES else None)
        elif part == "attributes":
            value = gpu.attributes.get(name if domain == DRIVER_NAME else f"{domain}/{name}")
            # True equals 1 in Python, but not in CEL.
            found.append((type(value), value))
    return tuple(found)


_CAPACITIES: Final[Mapping[str, Callable[[GpuView], int]]] = {
    CAPACITY_MEMORY: lambda gpu: gpu.memory_bytes,
    CAPACITY_CORES: lambda gpu: gpu.cores,
    CAPACITY_SLOTS: lambda gpu: gpu.slots,
}


def _device(gpu: GpuView, domains: Sequence[str]) -> dict[str, Any]:
    """Return a GPU as selectors see it: like one that kube-scheduler allocates, so that they hold for both alike."""
    from fracgpu.controller.objects.cel_library import quantity_value, semver_value

    # A domain that a device has not is an empty map and not an error, as in Kubernetes.
    attributes: dict[str, dict[str, Any]] = {domain: {} for domain in domains}
    attributes[DRIVER_NAME] = {}
    for qualified, value in gpu.attributes.items():
        domain, slash, name = qualified.rpartition("/")
        shown = semver_value(value) if qualified in _VERSIONS and isinstance(value, str) else value
        attributes.setdefault(domain if slash else DRIVER_NAME, {})[name] = shown
    attributes[DRIVER_NAME][ATTR_ALLOCATOR] = ALLOCATOR_SCHEDULER
    capacity: dict[str, dict[str, Any]] = {domain: {} for domain in domains}
    capacity[DRIVER_NAME] = {name: quantity_value(amount(gpu)) for name, amount in _CAPACITIES.items()}
    return {"driver": DRIVER_NAME, "allowMultipleAllocations": True, "attributes": attributes, "capacity": capacity}


def _shown(expression: str) -> str:
    """Return an expression on one line, shortened."""
    line = " ".join(expression.split())
    return line if len(line) <= _LONGEST_TEXT else f"{line[: _LONGEST_TEXT - 3]}..."


def _first_line(text: str) -> str:
    line = _STATUS.sub("", text).splitlines()[0]
    return _POSITION.sub("", line).removesuffix(" [INVALID_ARGUMENT]").strip()

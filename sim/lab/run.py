"""Run the five exercises and say what they showed."""

from __future__ import annotations

import logging
import platform
import time
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

from fracgpu.driver.errors import FracgpuError
from fracgpu.sim.lab import bundle, e1_co_residency, e2_one_view, e3_climb, e4_full, e5_mechanism, report
from fracgpu.sim.lab.evidence import Evidence
from fracgpu.sim.lab.lab import Lab
from fracgpu.sim.lab.options import LabOptions
from fracgpu.sim.lab.report import Outcome
from fracgpu.sim.lab.stage import Stage

_LOG = logging.getLogger(__name__)
EXERCISES = (e1_co_residency, e2_one_view, e3_climb, e4_full, e5_mechanism)


@dataclass(frozen=True, slots=True)
class LabReport:
    """The outcomes of all exercises, and the line that says what was simulated."""

    headline: str
    outcomes: tuple[Outcome, ...]

    @property
    def passed(self) -> bool:
        """All exercises passed."""
        return all(outcome.passed for outcome in self.outcomes)


def run_exercises(
    options: LabOptions, *, bundle_path: Path | None = None, on_headline: Callable[[str], None] = lambda _: None
) -> LabReport:
    """Start a lab, run all exercises in order, write the bundle if asked for, and stop the lab.

    An exercise that cannot be carried through fails; the others still run, and tell by themselves what they miss.
    ``on_headline`` is called as soon as the lab runs.

    Raises:
        LabUnavailable: the lab cannot be started here, or the bundle cannot be written.

    """
    if bundle_path is not None:
        bundle.require_writable(bundle_path)
    with Lab(options) as lab:
        stage = Stage.prepare(lab, node=lab)
        headline = (
            f"simulated GPU ({stage.product_name}, {stage.sizes.card_mib} MiB), embedded Kubernetes; "
            f"allocator: {e1_co_residency.ALLOCATORS[stage.allocator]}; containers: {lab.isolation.description}"
        )
        on_headline(headline)
        outcomes = tuple(run_exercise(number, stage) for number in range(1, len(EXERCISES) + 1))
        if bundle_path is not None:
            result = {
                "fracgpu": version("fracgpu"),
                "machine": platform.platform(),
                "headline": headline,
                "exercises": report.as_json(outcomes),
            }
            # What an exercise wrote down while its programs ran says more than the same asked for now.
            written = {name: text.encode() for one in outcomes for name, text in one.evidence.files.items()}
            bundle.write(bundle_path, bundle.collect(lab) | written, result)
    return LabReport(headline, outcomes)


def run_exercise(number: int, stage: Stage) -> Outcome:
    """Run exercise ``number`` (1 to 5) on the stage as those before it have left it; what it finds never raises."""
    exercise = EXERCISES[number - 1]
    evidence = Evidence()
    error = ""
    started = time.monotonic()
    try:
        exercise.run(stage, evidence)
    except (FracgpuError, OSError, KeyError, IndexError, ValueError) as problem:
        # Whatever does not look as expected is a finding about the driver, not a reason to stop looking.
        error = f"{type(problem).__name__}: {problem}"
        _LOG.debug("exercise failed", exc_info=True)
    seconds = time.monotonic() - started
    return Outcome(number=number, title=exercise.TITLE, evidence=evidence, seconds=seconds, error=error)

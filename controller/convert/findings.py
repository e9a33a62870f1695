"""What a user must know of a translation: what was left undone, and what means something else afterwards."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum

from fracgpu.driver.errors import FracgpuError


class Weight(StrEnum):
    """NOTE: translated, but look at it. REFUSED: the object was left as it is."""

    NOTE = "note"
    REFUSED = "not translated"


@dataclass(frozen=True, slots=True)
class Finding:
    """One line: `subject` names the object and the container in it, `what` says what is so and what to do."""

    weight: Weight
    subject: str
    what: str

    @property
    def message(self) -> str:
        """The whole line."""
        return f"{self.weight}: {self.subject}: {self.what}"


class Malformed(FracgpuError):
    """An object is not built as its kind is."""


@dataclass(slots=True)
class Findings:
    """Collects the findings about one object; `subject` is the part of it that is looked at."""

    subject: str
    found: list[Finding] = field(default_factory=list)

    def note(self, what: str) -> None:
        """Add that something means something else afterwards."""
        self.found.append(Finding(Weight.NOTE, self.subject, what))

    def refuse(self, what: str) -> None:
        """Add that something has no translation: the object stays as it is."""
        self.found.append(Finding(Weight.REFUSED, self.subject, what))

    def about(self, part: str) -> Findings:
        """Return a collector of the same findings for a part of the object."""
        return Findings(f"{self.subject}, {part}", self.found)

    @property
    def refused(self) -> bool:
        """Whether something has no translation."""
        return any(finding.weight is Weight.REFUSED for finding in self.found)

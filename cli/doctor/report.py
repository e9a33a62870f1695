"""The report: aligned lines for people, JSON for programs."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict

from fracgpu.cli.doctor.finding import Finding, Level

_NOUNS = {Level.OK: "ok", Level.INFO: "for information", Level.WARN: "to look at", Level.FAIL: "to repair"}


def as_text(findings: Sequence[Finding]) -> str:
    """Return one line per finding, the remedy below it where there is one, and a line that sums up."""
    width = max((len(finding.check) for finding in findings), default=0)
    lines = []
    for finding in findings:
        lines.append(f"{finding.level.upper():<5} {finding.check:<{width}}  {_printable(finding.what)}")
        if finding.remedy:
            lines.append(f"{'':<5} {'':<{width}}  -> {_printable(finding.remedy)}")
    counts = Counter(finding.level for finding in findings)
    summary = ", ".join(f"{counts[level]} {_NOUNS[level]}" for level in Level if counts[level])
    return "\n".join((*lines, "", summary or "nothing was checked"))


def as_json(findings: Sequence[Finding]) -> str:
    """Return the findings and how many there are of each level, as one JSON object."""
    counts = Counter(finding.level for finding in findings)
    document = {
        "findings": [asdict(finding) for finding in findings],
        "summary": {level.value: counts[level] for level in Level},
    }
    return json.dumps(document, indent=2)


def _printable(text: str) -> str:
    """Return `text` as one line that steers no terminal: file names may hold anything."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)

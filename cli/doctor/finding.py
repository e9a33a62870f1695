"""What a check found: how bad it is, what is so, and what to do about it."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from fracgpu.driver.errors import FracgpuError


class Level(StrEnum):
    """FAIL: claims or runs will fail. WARN: they work, but something here works against them. INFO: good to know."""

    OK = "ok"
    INFO = "info"
    WARN = "warn"
    FAIL = "fail"


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One line of the report. `check` is a stable name, `remedy` is empty where nothing is to be done."""

    check: str
    level: Level
    what: str
    remedy: str = ""


def ok(check: str, what: str) -> Finding:
    """All is well."""
    return Finding(check=check, level=Level.OK, what=what)


def info(check: str, what: str, remedy: str = "") -> Finding:
    """Nothing is wrong, but whoever looks for a reason may need it."""
    return Finding(check=check, level=Level.INFO, what=what, remedy=remedy)


def warn(check: str, what: str, remedy: str) -> Finding:
    """It works, not as well or not as safely as it should."""
    return Finding(check=check, level=Level.WARN, what=what, remedy=remedy)


def fail(check: str, what: str, remedy: str) -> Finding:
    """It can not work."""
    return Finding(check=check, level=Level.FAIL, what=what, remedy=remedy)


def failed(check: str, error: FracgpuError) -> Finding:
    """A typed error says all that a finding needs."""
    return fail(check, f"{error.subject}: {error.what}", error.remedy)

"""docs/user/reasons.md is the contract of the reason codes: it has each of them, once, and no other."""

from __future__ import annotations

import re
from pathlib import Path

from fracgpu.driver.codes import ReasonCode

PAGE = Path(__file__).resolve().parents[2] / "docs" / "user" / "reasons.md"
ROW = re.compile(
    r"^\| `(?P<code>\w+)` \| (?P<when>[^|]+) \| `(?P<example>[^|]+)` \| (?P<remedy>[^|]+) \|$", re.MULTILINE
)
PUBLISHED = (
    "AmountsDisagree AmountsDropped AmountsExceedDevice AmountsInvalid AmountsZero CardInsufficientCore "
    "CardInsufficientMemory CardNotHealth CardTimeSlicingExhausted CardTypeMismatch CardUuidMismatch ClassNotFound "
    "ConfigInvalid ConstraintNotMet DeviceNotFound ExclusiveDeviceAllocateConflict MemoryPercentNotSupported "
    "NodeInsufficientDevice NodeMismatch NumaNotFit PcieRootNotFit ResourceQuotaNotFit SearchLimitReached "
    "SelectorFailed SelectorMismatch SelectorNotSupported"
)


def test_the_page_has_each_code_once() -> None:
    rows = [match["code"] for match in ROW.finditer(PAGE.read_text())]
    assert sorted(rows) == sorted(code.value for code in ReasonCode)


def test_every_row_of_a_table_is_about_a_code() -> None:
    """A row that the first test does not understand would be a code that nobody misses."""
    lines = [line for line in PAGE.read_text().splitlines() if line.startswith("|")]
    others = [line for line in lines if not ROW.match(line)]
    assert set(others) == {"| code | when | example | what to do |", "|---|---|---|---|"}


def test_no_code_was_renamed() -> None:
    """The spelling is API: this list only grows."""
    assert set(PUBLISHED.split()) <= {code.value for code in ReasonCode}

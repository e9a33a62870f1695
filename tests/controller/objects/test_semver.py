"""Semantic versions: form, precedence and normalization."""

from __future__ import annotations

import itertools

import pytest

from fracgpu.controller.objects.semver import Semver


@pytest.mark.parametrize(
    "text",
    ["1.2", "v1.2.3", "01.2.3", "1.2.3-01", "1.2.3-", "1.2.3+", "1.2.3 ", "", "a.b.c", "1.2.3.4", "-1.2.3", "1.2.3-é"],
)
def test_what_is_no_version(text: str) -> None:
    with pytest.raises(ValueError, match=r"version|begins with 0"):
        Semver.parse(text)


def test_precedence() -> None:
    """The row of the standard, and numbers that would be out of order as text."""
    row = (
        "1.0.0-alpha 1.0.0-alpha.1 1.0.0-alpha.beta 1.0.0-beta 1.0.0-beta.2 1.0.0-beta.11 1.0.0-rc.1 1.0.0 1.0.2 1.0.10"
    )
    versions = [Semver.parse(text) for text in row.split()]
    for one, other in itertools.pairwise(versions):
        assert one < other
        assert not one > other
    assert [str(version) for version in versions] == row.split()


def test_build_metadata_does_not_count() -> None:
    assert Semver.parse("1.2.3+a.01") == Semver.parse("1.2.3+b")
    assert str(Semver.parse("1.2.3-rc.1+a")) == "1.2.3-rc.1"


@pytest.mark.parametrize(
    ("text", "normal"), [("v1", "1.0.0"), ("1.2", "1.2.0"), ("580.065.06", "580.65.6"), ("v1.2.3-rc.1", "1.2.3-rc.1")]
)
def test_normalized(text: str, normal: str) -> None:
    assert str(Semver.parse(text, normalize=True)) == normal


def test_not_everything_can_be_normalized() -> None:
    for text in ("1.2.3.4", "x1", "", "v", "1..2"):
        with pytest.raises(ValueError, match="version"):
            Semver.parse(text, normalize=True)

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fracgpu.driver.versions import normalise_version

STRICT = re.compile(r"(0|[1-9]\d*)\.(0|[1-9]\d*)\.(0|[1-9]\d*)")


@pytest.mark.parametrize(
    ("text", "version"),
    [
        ("580.65.06", "580.65.6"),
        ("13.0", "13.0.0"),
        ("9", "9.0.0"),
        (" 535.104.05\n", "535.104.5"),
        ("00.00.00", "0.0.0"),
        ("", "0.0.0"),
        ("garbage", "0.0.0"),
        ("1.2.3.4", "0.0.0"),
        ("1.2.", "0.0.0"),
        ("1.2.3-rc1", "0.0.0"),
        ("-1.2", "0.0.0"),
        ("1٠", "0.0.0"),
        ("9" * 40, "0.0.0"),
    ],
)
def test_normalise(text: str, version: str) -> None:
    assert normalise_version(text) == version


@given(st.text())
def test_is_always_strict_semver_and_stable(text: str) -> None:
    version = normalise_version(text)
    assert STRICT.fullmatch(version)
    assert normalise_version(version) == version

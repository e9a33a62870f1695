"""Semantic versions as Kubernetes' CEL library has them: strict, or normalized from what people write."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

_NUMBER: Final = r"(?:0|[1-9][0-9]*)"
_MARK: Final = r"[0-9A-Za-z-]+"
_STRICT: Final = re.compile(
    rf"(?P<major>{_NUMBER})\.(?P<minor>{_NUMBER})\.(?P<patch>{_NUMBER})"
    rf"(?:-(?P<pre>{_MARK}(?:\.{_MARK})*))?(?:\+{_MARK}(?:\.{_MARK})*)?",
    re.ASCII,
)
_LOOSE: Final = re.compile(r"v?(?P<numbers>[0-9]+(?:\.[0-9]+){0,2})(?P<rest>[-+].*)?", re.ASCII)
_Mark = tuple[int, int, str]


@dataclass(frozen=True, slots=True, order=True)
class Semver:
    """A version. Ordered by precedence; build metadata does not count and is not kept."""

    major: int
    minor: int
    patch: int
    # A version without a pre-release comes after all that have one; numbers come before words.
    released: bool = True
    pre: tuple[_Mark, ...] = ()

    @classmethod
    def parse(cls, text: str, *, normalize: bool = False) -> Semver:
        """Return the version in a text, `1.2.3` or `1.2.3-rc.1+build`.

        `normalize` also takes a `v` in front, missing numbers and leading zeros. Raises ValueError.
        """
        loose = _LOOSE.fullmatch(text) if normalize else None
        if loose is not None:
            numbers = [str(int(number)) for number in loose["numbers"].split(".")]
            text = ".".join([*numbers, "0", "0"][:3]) + (loose["rest"] or "")
        match = _STRICT.fullmatch(text)
        if match is None:
            raise ValueError(f"{text!r:.80} is not a semantic version")
        marks = tuple(_mark(part) for part in match["pre"].split(".")) if match["pre"] is not None else ()
        return cls(int(match["major"]), int(match["minor"]), int(match["patch"]), not marks, marks)

    def __str__(self) -> str:
        pre = "-" + ".".join(str(number) if word == "" else word for _, number, word in self.pre) if self.pre else ""
        return f"{self.major}.{self.minor}.{self.patch}{pre}"


def _mark(part: str) -> _Mark:
    if not part.isdigit():
        return (1, 0, part)
    if len(part) > 1 and part.startswith("0"):
        raise ValueError(f"number {part!r} of a pre-release begins with 0")
    return (0, int(part), "")

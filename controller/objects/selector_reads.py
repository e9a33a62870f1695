"""What a CEL expression reads of a device, found in its text.

GPUs that are equal in what an expression reads get the same answer, and a cluster has few kinds of cards: without this
every selector would be evaluated for every GPU.
"""

from __future__ import annotations

import re
from functools import lru_cache
from typing import Final

Read = tuple[str, str, str]
"""`attributes` or `capacity`, domain and name; for other fields of a device the field and twice nothing."""

# Domains and names have no quotes and no blanks, so that a match never reaches out of the string literal it began in:
# whatever a match covers really is the path that it names, or no code at all.
_KEY: Final = r"\[\s*\??\s*(?:'(?P<{0}_single>[\w./-]+)'|\"(?P<{0}_double>[\w./-]+)\")\s*\]"
_DOMAIN: Final = _KEY.format("domain")
_PATH: Final = re.compile(
    r"\bdevice\s*\.\s*(?:(?P<field>driver|allowMultipleAllocations)\b"
    rf"|(?P<part>attributes|capacity)\s*{_DOMAIN}\s*"
    # A name before a parenthesis is a call, which may read anything.
    rf"(?:\.\s*\??\s*(?P<name>[A-Za-z_]\w*)\b(?!\s*\()|{_KEY.format('name')}))",
    re.ASCII,
)
_DEVICE: Final = re.compile(r"\bdevice\b", re.ASCII)
_DOMAINS: Final = re.compile(
    rf"\b(?:attributes|capacity)\s*(?:{_DOMAIN}|\.\s*(?:\?\s*)?(?P<word>[A-Za-z_]\w*)\b(?!\s*\())", re.ASCII
)


@lru_cache(maxsize=512)
def reads_of(expression: str) -> tuple[Read, ...] | None:
    """Return all that an expression reads of a device, or None when its text does not tell."""
    reads: dict[Read, None] = {}
    for match in _PATH.finditer(expression):
        if match["field"]:
            reads[match["field"], "", ""] = None
            continue
        domain = match["domain_single"] or match["domain_double"]
        name = match["name"] or match["name_single"] or match["name_double"]
        reads[match["part"], domain, name] = None
    # Every other mention of the device could be a way to read more.
    return None if _DEVICE.search(_PATH.sub(" ", expression)) else tuple(reads)


def domains_of(expression: str) -> tuple[str, ...]:
    """Return the domains whose attributes or capacities an expression names."""
    found = _DOMAINS.finditer(expression)
    return tuple(dict.fromkeys(match["domain_single"] or match["domain_double"] or match["word"] for match in found))

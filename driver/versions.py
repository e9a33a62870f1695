"""Version texts as ResourceSlice version attributes: strict SemVer, or 0.0.0.

The API server refuses a whole slice for one version attribute that is not SemVer, and NVIDIA writes 580.65.06.
"""

from __future__ import annotations

import re
from typing import Final

UNKNOWN_VERSION: Final = "0.0.0"
_DOTTED: Final = re.compile(r"[0-9]{1,9}(\.[0-9]{1,9}){0,2}")


def normalise_version(text: str) -> str:
    """Return `text` as three numbers without leading zeros: `580.65.06` -> `580.65.6`, `13.0` -> `13.0.0`.

    Anything that is not one to three dotted numbers is unknown: `0.0.0`.
    """
    stripped = text.strip()
    if _DOTTED.fullmatch(stripped) is None:
        return UNKNOWN_VERSION
    numbers = [str(int(part)) for part in stripped.split(".")]
    return ".".join([*numbers, "0", "0"][:3])

"""A GPU's UUID in its two forms: the text NVIDIA's tools print and the 16 bytes that the ABI carries.

The bytes stand in the order in which they print, which is also what cuDeviceGetUuid returns.
"""

import re
from typing import Final

from fracgpu.native.errors import DeviceUuidInvalid

_TEXT: Final = re.compile(r"GPU-([0-9a-f]{8})-([0-9a-f]{4})-([0-9a-f]{4})-([0-9a-f]{4})-([0-9a-f]{12})")


def uuid_bytes(text: str) -> bytes:
    """Return the 16 bytes of a UUID written as `GPU-xxxxxxxx-xxxx-xxxx-xxxx-xxxxxxxxxxxx`, lower case.

    Raises DeviceUuidInvalid for any other text.
    """
    match = _TEXT.fullmatch(text)
    if match is None:
        raise DeviceUuidInvalid(f"device UUID {text!r}", "is not of the form GPU-8-4-4-4-12 lower-case hex digits")
    return bytes.fromhex("".join(match.groups()))


def uuid_text(data: bytes) -> str:
    """Return the text form of the 16 bytes `data`.

    Raises DeviceUuidInvalid when there are not exactly 16.
    """
    if len(data) != 16:
        raise DeviceUuidInvalid(f"device UUID of {len(data)} bytes", "is not 16 bytes long")
    digits = data.hex()
    return f"GPU-{digits[:8]}-{digits[8:12]}-{digits[12:16]}-{digits[16:20]}-{digits[20:]}"

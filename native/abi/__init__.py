"""The ABI between host and container as Python sees it.

The C header is the only description: its part between the ABI-BEGIN and ABI-END markers is handed to cffi
unchanged, so that sizes and offsets can not drift between the interceptor and the host.
"""

import re
from pathlib import Path
from typing import Any, Final

import cffi

HEADER_PATH: Final = Path(__file__).with_name("fracgpu_abi.h")


def abi_definitions(header: str) -> str:
    """Return the C declarations between the ABI markers of `header`, as `cffi.FFI.cdef` takes them.

    Raises ValueError when the header has not exactly one marked part.
    """
    parts = re.findall(r"/\* ABI-BEGIN \*/\n(.*?)/\* ABI-END \*/", header, flags=re.DOTALL)
    if len(parts) != 1:
        raise ValueError(f"{HEADER_PATH.name}: {len(parts)} marked parts, expected one; restore the ABI markers")
    return str(parts[0])


ffi: Final = cffi.FFI()
ffi.cdef(abi_definitions(HEADER_PATH.read_text(encoding="ascii")))


def _enum(name: str) -> dict[str, int]:
    values: Any = ffi.typeof(f"enum {name}").relements
    return dict(values)


_SIZES = _enum("fracgpu_abi")
_FLAGS = _enum("fracgpu_config_flags")
_VIEWS = _enum("fracgpu_utilization_view")
_STATES = _enum("fracgpu_slot_state")
_FEEDBACK_FLAGS = _enum("fracgpu_feedback_flags")

ABI_VERSION: Final = _SIZES["FRACGPU_ABI_VERSION"]
CONFIG_FILE_BYTES: Final = _SIZES["FRACGPU_CONFIG_FILE_BYTES"]
CONFIG_BYTES: Final[int] = ffi.sizeof("struct fracgpu_config")
FEEDBACK_OFFSET_BYTES: Final = _SIZES["FRACGPU_FEEDBACK_OFFSET_BYTES"]
FEEDBACK_HEADER_BYTES: Final = _SIZES["FRACGPU_FEEDBACK_HEADER_BYTES"]
FEEDBACK_STRIDE_BYTES: Final = _SIZES["FRACGPU_FEEDBACK_STRIDE_BYTES"]
STATE_HEADER_BYTES: Final = _SIZES["FRACGPU_STATE_HEADER_BYTES"]
SLOT_COUNT: Final = _SIZES["FRACGPU_SLOT_COUNT"]
SLOT_STRIDE_BYTES: Final = _SIZES["FRACGPU_SLOT_STRIDE_BYTES"]
STATE_FILE_BYTES: Final = STATE_HEADER_BYTES + SLOT_COUNT * SLOT_STRIDE_BYTES
CONFIG_FILE_WITH_FEEDBACK_BYTES: Final = (
    FEEDBACK_OFFSET_BYTES + FEEDBACK_HEADER_BYTES + SLOT_COUNT * FEEDBACK_STRIDE_BYTES
)
ALLOCATION_ID_BYTES: Final = _SIZES["FRACGPU_ALLOCATION_ID_BYTES"]

FLAG_SUSPEND: Final = _FLAGS["FRACGPU_FLAG_SUSPEND"]
FLAG_OBSERVE: Final = _FLAGS["FRACGPU_FLAG_OBSERVE"]
FLAG_IGNORE_OVERHEAD: Final = _FLAGS["FRACGPU_FLAG_IGNORE_OVERHEAD"]
FEEDBACK_UTILIZATION: Final = _FEEDBACK_FLAGS["FRACGPU_FEEDBACK_UTILIZATION"]

UTILIZATION_SLICE: Final = _VIEWS["FRACGPU_UTILIZATION_SLICE"]
UTILIZATION_DEVICE: Final = _VIEWS["FRACGPU_UTILIZATION_DEVICE"]

SLOT_FREE: Final = _STATES["FRACGPU_SLOT_FREE"]
SLOT_CLAIMING: Final = _STATES["FRACGPU_SLOT_CLAIMING"]
SLOT_LIVE: Final = _STATES["FRACGPU_SLOT_LIVE"]
SLOT_DEAD: Final = _STATES["FRACGPU_SLOT_DEAD"]

# The header gives these as macros, which cffi does not evaluate; a test compares them with the compiler's values.
CONFIG_MAGIC: Final = int.from_bytes(b"FRACCFG1", "little")
STATE_MAGIC: Final = int.from_bytes(b"FRACSTA1", "little")
NO_LIMIT: Final = 2**64 - 1

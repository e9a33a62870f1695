"""Words for the numbers that NVML reports (nvml.h: nvmlBrandType_t, nvmlDeviceArchitecture_t).

They become ResourceSlice attributes that users select by, so the spelling is fixed here. A number that this table does
not know gives an empty text: the attribute says "unknown", never a wrong name.
"""

from __future__ import annotations

from typing import Final

BRANDS: Final = {
    1: "Quadro",
    2: "Tesla",
    3: "NVS",
    4: "GRID",
    5: "GeForce",
    6: "Titan",
    7: "NvidiaVApps",
    8: "NvidiaVPC",
    9: "NvidiaVCS",
    10: "NvidiaVWS",
    11: "NvidiaCloudGaming",
    12: "QuadroRTX",
    13: "NvidiaRTX",
    14: "Nvidia",
    15: "GeForceRTX",
    16: "TitanRTX",
}
ARCHITECTURES: Final = {
    2: "Kepler",
    3: "Maxwell",
    4: "Pascal",
    5: "Volta",
    6: "Turing",
    7: "Ampere",
    8: "Ada Lovelace",
    9: "Hopper",
    10: "Blackwell",
    13: "Rubin",
}


def brand_name(number: int | None) -> str:
    """Return the brand's name, or an empty text for None and unknown numbers."""
    return BRANDS.get(number, "") if number is not None else ""


def architecture_name(number: int | None) -> str:
    """Return the architecture's name, or an empty text for None and unknown numbers."""
    return ARCHITECTURES.get(number, "") if number is not None else ""

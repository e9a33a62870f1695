"""The driver versions that the model can be, and which symbols each of them has."""

import re
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from fracgpu.native.libraries import NativeLibraries

ROOT: Final = Path(__file__).resolve().parent.parent.parent
_TABLE: Final = re.compile(r"^(MODEL|ABSENT)\((\w+), (\w+), (\d+), ([01])\)$", flags=re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Symbol:
    """One line of cuda_symbols.def."""

    name: str
    base: str
    since: int
    per_thread: bool
    modelled: bool


def _symbols() -> tuple[Symbol, ...]:
    text = (ROOT / "native" / "fake" / "cuda_symbols.def").read_text()
    return tuple(
        Symbol(name=name, base=base, since=int(since), per_thread=twin == "1", modelled=kind == "MODEL")
        for kind, name, base, since, twin in _TABLE.findall(text)
    )


SYMBOLS: Final = _symbols()
_SINCE: Final = {symbol.name: symbol.since for symbol in SYMBOLS}


@dataclass(frozen=True, slots=True)
class Driver:
    """One build of the model."""

    cuda_version: int
    release: str

    def __str__(self) -> str:
        return f"{self.cuda_version // 1000}.{self.cuda_version % 1000 // 10}"

    @property
    def is_default(self) -> bool:
        """Is this the driver in build/native/fake?"""
        return self.cuda_version == 13000

    def has(self, symbol: str) -> bool:
        """Does this driver export the function? NVML's are the same in all of them."""
        return symbol.startswith("nvml") or _SINCE.get(symbol, 1 << 30) <= self.cuda_version

    def directory(self, libraries: NativeLibraries) -> Path:
        """Where its two libraries are."""
        return libraries.directory / f"fake-{self}"

    def exports(self, libraries: NativeLibraries) -> dict[str, int]:
        """Return the address of every function that its libcuda exports."""
        command = ["nm", "-D", "--defined-only", str(self.directory(libraries) / "libcuda.so.1")]
        output = subprocess.run(command, check=True, capture_output=True, text=True).stdout
        return {name: int(address, 16) for address, _, name in (line.split() for line in output.splitlines())}


DRIVERS: Final = (
    Driver(11080, "520.61.05"),
    Driver(12020, "535.104.05"),
    Driver(12090, "575.57.08"),
    Driver(13000, "580.65.06"),
    Driver(13050, "615.71.05"),
)

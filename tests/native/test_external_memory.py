"""Memory of other APIs through the shim: charged to nobody here, whatever is mapped from it and freed."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

LIMIT_MIB = 128
GPU = "GPU-11111111-2222-3333-4444-555555555555"


def test_external_memory_is_foreign(prefix: Any, program: Callable[[str], Path]) -> None:
    prefix.allocate(GPU, LIMIT_MIB)
    prefix.run(program("external"), str(LIMIT_MIB), expect=0)

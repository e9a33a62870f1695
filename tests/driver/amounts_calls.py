"""What the tests of requested and of granted amounts share: one GPU of 10 GiB, one claim, and short calls."""

from typing import Any

from fracgpu.driver.amounts import Amounts, granted_amounts, requested_amounts
from fracgpu.driver.config import FractionConfig
from fracgpu.driver.grant import GrantResult
from fracgpu.driver.quantity import MIB

PHYSICAL = 10240 * MIB
SUBJECT = "claim ns/a request gpu"
CONSUMED = {"memory": "3000Mi", "cores": "30", "slots": "1"}
ZERO = {"memory": "0", "cores": "0", "slots": "0"}
ADMIN = Amounts(memory_bytes=0, cores=0, slots=0, limited=False)


def config(**fields: Any) -> FractionConfig:
    return FractionConfig(**fields)


def grant(memory_mib: int = 3000, cores: int = 30, slots: int = 1) -> GrantResult:
    return GrantResult(
        request="gpu", pool="n1", device="gpu-1", ordinal=0, memory_bytes=memory_mib * MIB, cores=cores, slots=slots
    )


def amounts(memory_mib: int, cores: int = 0, *, limited: bool = True) -> Amounts:
    return Amounts(memory_bytes=memory_mib * MIB, cores=cores, slots=1, limited=limited)


def ask(**arguments: Any) -> Amounts:
    return requested_amounts(**{"subject": SUBJECT, "physical_memory_bytes": PHYSICAL, **arguments})


def prepare(**arguments: Any) -> Amounts:
    return granted_amounts(**{"subject": SUBJECT, "physical_memory_bytes": PHYSICAL, **arguments})

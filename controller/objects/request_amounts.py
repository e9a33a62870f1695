"""Amounts that are wrong on every GPU, found before any GPU is looked at.

The engine resolves amounts per GPU. Where there is no GPU, or none that is selected, it would never say that the
request itself is wrong; and the user would add GPUs until it does.
"""

from __future__ import annotations

from typing import Final

from fracgpu.controller.fit.views import DeviceRequest
from fracgpu.driver.amounts import Capacities, requested_amounts
from fracgpu.driver.config import WHOLE, FractionConfig
from fracgpu.driver.errors import AmountsDisagree, MemoryPercentNotSupported
from fracgpu.driver.names import CAPACITY_CORES, CAPACITY_MEMORY

# No Quantity is larger, so only amounts that exceed every GPU exceed it.
_LARGEST_GPU: Final = 2**63


def check_amounts(request: DeviceRequest) -> None:
    """Refuse amounts that no GPU can give. Raises AmountsError.

    Unknown capacities, what is no Quantity, zero, more cores or slots than a share may have, two statements that
    differ, and no memory where it has to be said. What depends on the size of the card is left for the engine.
    """
    claim_config, keeps_capacity = request.claim_config, request.keeps_capacity
    depends = claim_config.memory == WHOLE or claim_config.memory_percent is not None
    if depends and CAPACITY_MEMORY in request.requests:
        # Whether the two agree is a question to each GPU; everything else is asked without the configured one.
        claim_config = claim_config.model_copy(update={"memory": None, "memory_percent": None})
        keeps_capacity = True
    requested_amounts(
        subject=request.subject,
        physical_memory_bytes=_LARGEST_GPU,
        keeps_capacity=keeps_capacity,
        requests=request.requests,
        claim_config=claim_config,
        class_config=request.class_config,
        admin_access=request.admin,
    )


def scheduler_configs(
    subject: str, requests: Capacities, class_config: FractionConfig, claim_config: FractionConfig
) -> tuple[FractionConfig, FractionConfig]:
    """Return the configurations of class and claim as they count when kube-scheduler allocates.

    kube-scheduler counts capacity.requests and, where they say nothing, the device's defaults: all of the memory, no
    cores. It does not read configuration; Prepare refuses a claim whose own configuration says something else. Amounts
    of the class are defaults of our allocator only.

    Raises MemoryPercentNotSupported or AmountsDisagree.
    """
    if claim_config.memory_percent is not None:
        what = f"memoryPercent {claim_config.memory_percent} is not something that kube-scheduler can count"
        remedy = "state memory in capacity.requests, or set allocator to controller"
        raise MemoryPercentNotSupported(subject, what, remedy=remedy)
    for name, stated, default in (
        (CAPACITY_MEMORY, claim_config.memory, WHOLE),
        (CAPACITY_CORES, claim_config.cores, 0),
    ):
        if stated not in (None, default) and name not in requests:
            what = f"{name} {stated} is stated in the claim's FractionConfig only, which kube-scheduler does not read"
            raise AmountsDisagree(subject, what, remedy=f"state {name} in capacity.requests")
    nothing = {"memory": None, "memory_percent": None, "cores": None}
    return class_config.model_copy(update=nothing), claim_config

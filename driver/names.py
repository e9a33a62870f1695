"""Every name of ours that two parts must spell alike.

A name written twice is a name that will differ once: driver, classes, attributes, ids, environment keys and container
paths are defined here and nowhere else.
"""

from __future__ import annotations

import hashlib
import re
from typing import Final, NewType

from fracgpu.driver.errors import NameInvalid

ClaimUid = NewType("ClaimUid", str)
"""`metadata.uid` of a ResourceClaim."""
AllocationId = NewType("AllocationId", str)
"""Identifies one result of a claim; see allocation_id."""
GpuUuid = NewType("GpuUuid", str)
"""A GPU's UUID as NVML and `nvidia-smi -L` show it: `GPU-` and a lower-case UUID."""
DeviceName = NewType("DeviceName", str)
"""Name of a device in a ResourceSlice; see device_name."""

DRIVER_NAME: Final = "gpu.fracgpu.dev"
CLASS_FRACTION: Final = "gpu.fracgpu.dev"
CLASS_WHOLE: Final = "whole.gpu.fracgpu.dev"
FINALIZER: Final = "resource.kubernetes.io/delete-protection"

API_VERSION: Final = "gpu.fracgpu.dev/v1alpha1"
CONFIG_KIND: Final = "FractionConfig"
GRANT_KIND: Final = "FractionGrant"

CDI_VENDOR: Final = "gpu.fracgpu.dev"
CDI_CLASS: Final = "claim"

CAPACITY_MEMORY: Final = "memory"
CAPACITY_CORES: Final = "cores"
CAPACITY_SLOTS: Final = "slots"
CAPACITIES: Final = (CAPACITY_MEMORY, CAPACITY_CORES, CAPACITY_SLOTS)
DEFAULT_SLOTS_PER_GPU: Final = 10

ATTR_UUID: Final = "uuid"
ATTR_PRODUCT_NAME: Final = "productName"
ATTR_BRAND: Final = "brand"
ATTR_ARCHITECTURE: Final = "architecture"
ATTR_PCI_BUS_ID: Final = "pciBusID"
ATTR_ALLOCATOR: Final = "allocator"
ATTR_PHYSICAL_MEMORY_MIB: Final = "physicalMemoryMiB"
ATTR_NUMA_NODE: Final = "numaNode"
ATTR_OVERSUBSCRIBED: Final = "oversubscribed"
ATTR_DRIVER_VERSION: Final = "driverVersion"
ATTR_CUDA_DRIVER_VERSION: Final = "cudaDriverVersion"
ATTR_CUDA_COMPUTE_CAPABILITY: Final = "cudaComputeCapability"
ATTR_PCIE_ROOT: Final = "resource.kubernetes.io/pcieRoot"

ALLOCATOR_CONTROLLER: Final = "controller"
ALLOCATOR_SCHEDULER: Final = "scheduler"

CONTAINER_ALLOCATIONS_DIR: Final = "/run/fracgpu/allocations"
CONTAINER_DRIVER_DIR: Final = "/run/fracgpu/driver"
CONTAINER_PRELOAD_DIR: Final = "/run/fracgpu/preload"
ALLOCATION_ENV_PREFIX: Final = "FRACGPU_ALLOCATION_"

_GPU_UUID: Final = re.compile(r"GPU-[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", re.IGNORECASE)
_UUID_FORM: Final = "GPU-xxxxxxxx-xxxx-xxxx-xxxx-xxxxxxxxxxxx"
# What a CDI device name and a directory name both allow.
_ID_PART: Final = re.compile(r"[A-Za-z0-9]([A-Za-z0-9.-]*[A-Za-z0-9])?")
_SHARE_ID: Final = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", re.IGNORECASE)


def device_name(gpu_uuid: str) -> DeviceName:
    """Return the ResourceSlice device name of a GPU: `gpu-` and the first 8 hex digits of its UUID.

    Stable over reboots, unlike an index. Raises NameInvalid for anything but a full GPU UUID.
    """
    if _GPU_UUID.fullmatch(gpu_uuid) is None:
        raise NameInvalid(f"GPU UUID {gpu_uuid!r:.80}", "has another form", remedy=f"give it as {_UUID_FORM}")
    return DeviceName(f"gpu-{gpu_uuid[4:12].lower()}")


def base_request(request: str) -> str:
    """Return a result's request name without the `/sub` that a prioritized list appends."""
    return request.partition("/")[0]


def allocation_id(
    claim_uid: ClaimUid | str, request: str, device: DeviceName | str, share_id: str | None, ordinal: int
) -> AllocationId:
    """Return `<claim uid>-<request>-<device>-<first 8 of share_id, or ordinal>` for one result of a claim.

    `ordinal` is the position of the result among all results of the claim; it tells two results of one device apart
    where the API keeps no share id. Raises NameInvalid if a part cannot stand in a CDI device name.
    """
    if share_id is not None and _SHARE_ID.fullmatch(share_id) is None:
        raise NameInvalid(f"shareID {share_id!r:.80}", "is not a UUID", remedy="let the allocator write it")
    if ordinal < 0:
        raise NameInvalid(f"result ordinal {ordinal}", "is negative", remedy="count results from 0")
    last = share_id[:8].lower() if share_id is not None else str(ordinal)
    parts = (str(claim_uid), base_request(request), str(device), last)
    for part in parts:
        if _ID_PART.fullmatch(part) is None:
            raise NameInvalid(f"allocation id part {part!r:.80}", "has characters that CDI refuses", remedy=_ID_REMEDY)
    return AllocationId("-".join(parts))


_ID_REMEDY: Final = "use letters, digits, dots and dashes, alphanumeric at both ends"


def cdi_device_id(allocation: AllocationId | str) -> str:
    """Return the fully qualified CDI device id of an allocation."""
    return f"{CDI_VENDOR}/{CDI_CLASS}={allocation}"


def allocation_hash(allocation: AllocationId | str) -> str:
    """Return the first 16 hex digits of the SHA-256 of an allocation id: its short form in environment keys."""
    return hashlib.sha256(str(allocation).encode()).hexdigest()[:16]


def allocation_env_key(allocation: AllocationId | str) -> str:
    """Return the environment key of an allocation: one per allocation, so two claims in a container never collide."""
    return f"{ALLOCATION_ENV_PREFIX}{allocation_hash(allocation)}"


def allocation_env_value(request: str, uuid: GpuUuid | str, memory_mib: int, cores: int) -> str:
    """Return `<request> <gpu uuid> <memory MiB>Mi <cores>`, cores in percent of one GPU (0: no reservation, no cap)."""
    return f"{base_request(request)} {uuid} {memory_mib}Mi {cores}"

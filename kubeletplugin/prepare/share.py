"""What one result of a claim's allocation is on this node: which GPU, how much of it, and under which id.

Pure, like the plan that is made of it. Nothing that the allocator wrote is believed: pool, device, health,
configuration, grant and amounts are all checked here.
"""

from dataclasses import dataclass

from fracgpu.driver.amounts import Amounts, granted_amounts
from fracgpu.driver.codes import ReasonCode
from fracgpu.driver.config import WHOLE, FractionConfig
from fracgpu.driver.errors import ConfigInvalid, GrantInvalid, NameInvalid
from fracgpu.driver.gpu import Gpu
from fracgpu.driver.grant import GrantResult
from fracgpu.driver.names import allocation_id, base_request
from fracgpu.kubeletplugin.errors import ClaimInvalid, ClaimRefused
from fracgpu.kubeletplugin.options import PluginOptions
from fracgpu.kubeletplugin.prepare.checkpoint import AllocationRecord, ClaimEntry
from fracgpu.kubeletplugin.prepare.claim import ClaimAllocation, ClaimResult


@dataclass(frozen=True, slots=True, kw_only=True)
class Share:
    """One allocation of the claim, resolved: its record, its GPU, and the configuration of its class."""

    record: AllocationRecord
    gpu: Gpu
    class_config: FractionConfig


@dataclass(frozen=True, slots=True, kw_only=True)
class _Terms:
    """What class, claim and controller say of one allocation, and its id."""

    allocation_id: str
    class_config: FractionConfig
    claim_config: FractionConfig
    grant: GrantResult | None


def resolve_share(
    claim: ClaimAllocation,
    index: int,
    result: ClaimResult,
    *,
    options: PluginOptions,
    gpus: tuple[Gpu, ...],
    previous: ClaimEntry | None,
) -> Share:
    """Return what `result`, the claim's allocation of ours number `index`, is on a node with `gpus`.

    `previous` is the claim's entry in the checkpoint: what it says of an allocation that was handed out stays true.
    Raises ClaimRefused, ClaimInvalid or AmountsError.
    """
    subject = f"{claim.ref} request {result.request} device {result.device}"
    gpu = _find_gpu(subject, result, options, gpus)
    terms = _terms(claim, result, subject)
    former = _handed_out(previous, terms.allocation_id)
    amounts = granted_amounts(
        subject=subject,
        allocator=options.allocator,
        physical_memory_bytes=_memory_then(gpu, former, terms.claim_config),
        consumed=result.consumed,
        grant=terms.grant,
        claim_config=terms.claim_config,
        class_config=terms.class_config,
        admin_access=result.admin_access,
    )
    record = _record(index, result, gpu, terms, amounts, former)
    return Share(record=record, gpu=gpu, class_config=terms.class_config)


def _record(
    index: int, result: ClaimResult, gpu: Gpu, terms: _Terms, amounts: Amounts, former: AllocationRecord | None
) -> AllocationRecord:
    return AllocationRecord(
        allocation_id=terms.allocation_id,
        index=index,
        request=base_request(result.request),
        pool=result.pool,
        device=result.device,
        gpu_uuid=gpu.uuid,
        share_id=result.share_id,
        memory_bytes=amounts.memory_bytes,
        cores=amounts.cores,
        slots=amounts.slots,
        # A whole GPU was handed out as one. That it is now smaller or larger by a few MiB does not change what it is.
        limited=amounts.limited if former is None else former.limited,
        admin=result.admin_access,
    )


def _terms(claim: ClaimAllocation, result: ClaimResult, subject: str) -> _Terms:
    try:
        return _Terms(
            allocation_id=allocation_id(claim.ref.uid, result.request, result.device, result.share_id, result.ordinal),
            class_config=claim.merged_config(result.request, "FromClass"),
            claim_config=claim.merged_config(result.request, "FromClaim"),
            grant=claim.grant_for(result),
        )
    except (ConfigInvalid, GrantInvalid, NameInvalid) as error:
        # These know the field but not whose it is, and a pod event has to say both.
        raise ClaimInvalid(subject, f"{error.subject} {error.what}", remedy=error.remedy) from error


def _handed_out(previous: ClaimEntry | None, identifier: str) -> AllocationRecord | None:
    if previous is None or not previous.handed_out:
        return None
    return next((record for record in previous.allocations if record.allocation_id == identifier), None)


def _memory_then(gpu: Gpu, former: AllocationRecord | None, claim_config: FractionConfig) -> int:
    """Return the GPU's memory in bytes as it was when `former` was handed out; another driver may count less or more.

    Whoever said "whole" meant the amount that was found to be whole then.
    """
    if former is None or former.admin:
        return gpu.physical_memory_bytes
    if claim_config.memory == WHOLE:
        return former.memory_bytes
    return max(gpu.physical_memory_bytes, former.memory_bytes)


def _find_gpu(subject: str, result: ClaimResult, options: PluginOptions, gpus: tuple[Gpu, ...]) -> Gpu:
    node_name = options.node_name
    if result.pool != node_name:
        raise ClaimRefused(
            subject,
            f"is allocated in pool {result.pool}, this is node {node_name}",
            code=ReasonCode.NODE_MISMATCH,
            remedy="delete the pod; a pod that sets nodeName must take a claim allocated there",
        )
    gpu = next((gpu for gpu in gpus if gpu.device_name == result.device), None)
    if gpu is None:
        known = ", ".join(gpu.device_name for gpu in gpus) or "none"
        raise ClaimRefused(
            subject,
            f"is not on node {node_name}, which has: {known}",
            code=ReasonCode.DEVICE_NOT_FOUND,
            remedy="delete the claim so that it is allocated again; if a GPU is missing, read the kernel log for Xid",
        )
    if not gpu.healthy:
        raise ClaimRefused(
            subject,
            f"GPU {gpu.uuid} does not answer",
            code=ReasonCode.CARD_NOT_HEALTH,
            remedy="look for Xid in the kernel log of the node and reset the GPU",
        )
    return gpu

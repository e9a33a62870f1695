"""Decides how a claim is prepared. Pure: everything it knows is in its arguments, and it changes nothing.

So every refusal happens before the first file exists, and preparing again computes the same result instead of looking
for the old one. Prepare trusts nobody: whoever allocated, the API server does not check that a device exists or that
amounts fit, so all of it is checked here against this node.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from fracgpu.cdi.discovery import DriverFiles, gpu_device_nodes
from fracgpu.cdi.errors import DriverFilesMissing
from fracgpu.cdi.spec import CdiSpec
from fracgpu.cdi.writer import spec_file_name
from fracgpu.driver.codes import ReasonCode
from fracgpu.driver.gpu import Gpu
from fracgpu.driver.names import CDI_CLASS, CDI_VENDOR, cdi_device_id
from fracgpu.driver.versions import UNKNOWN_VERSION, normalise_version
from fracgpu.kubeletplugin.errors import ClaimChanged, ClaimRefused, InterceptorDamaged
from fracgpu.kubeletplugin.options import PluginOptions
from fracgpu.kubeletplugin.prepare.capacity import check_capacity
from fracgpu.kubeletplugin.prepare.checkpoint import AllocationRecord, Checkpoint, ClaimEntry, EntryState
from fracgpu.kubeletplugin.prepare.claim import ClaimAllocation
from fracgpu.kubeletplugin.prepare.edits import (
    allocation_edits,
    claim_spec,
    driver_edits,
    library_directories,
    strict_edits,
)
from fracgpu.kubeletplugin.prepare.share import Share, resolve_share
from fracgpu.kubeletplugin.prepare.state_locks import processes
from fracgpu.native.config_page import ConfigPage


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeFacts:
    """The node at one moment, read under the node lock where it can change under us.

    `device_nodes` are those present (see fracgpu.cdi.discovery), `machine` is uname's, `library_digest` the
    interceptor of this plugin and `stored_digests` all that are on the node, `strict_digests` those that can be strict:
    what earlier versions stored can not. `users` are the numbers of processes that
    still use claims which were taken back or never handed out, by claim UID.
    """

    options: PluginOptions
    gpus: tuple[Gpu, ...]
    driver: DriverFiles
    device_nodes: frozenset[str]
    machine: str
    library_digest: str
    stored_digests: frozenset[str]
    strict_digests: frozenset[str]
    checkpoint: Checkpoint
    users: Mapping[str, int]


@dataclass(frozen=True, slots=True, kw_only=True)
class AllocationFiles:
    """The files of one allocation: where, and what the config page has to say."""

    directory: Path
    page: ConfigPage


@dataclass(frozen=True, slots=True, kw_only=True)
class PreparedDevice:
    """One device as the kubelet is told about it."""

    request_names: tuple[str, ...]
    pool: str
    device: str
    cdi_device_ids: tuple[str, ...]
    share_id: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class NodePlan:
    """All that has to be on the disk for a claim, and the answer to the kubelet.

    `previous` is the claim's entry in the checkpoint now; `stale` says that it describes another allocation, which was
    never handed out and is to be taken back first.
    """

    entry: ClaimEntry
    previous: ClaimEntry | None
    stale: bool
    files: tuple[AllocationFiles, ...]
    spec_path: Path
    spec: CdiSpec
    devices: tuple[PreparedDevice, ...]


def spec_path(options: PluginOptions, claim_uid: str) -> Path:
    """Return where the CDI spec of a claim is."""
    return options.cdi_dir / spec_file_name(vendor=CDI_VENDOR, device_class=CDI_CLASS, claim_uid=claim_uid)


def allocation_directory(options: PluginOptions, identifier: str) -> Path:
    """Return the host directory of an allocation's config page and state file."""
    return options.run_dir / "allocations" / identifier


def plan_prepare(claim: ClaimAllocation, node: NodeFacts) -> NodePlan:
    """Return how to prepare `claim` on `node`; preparing a prepared claim gives an equal plan.

    Raises ClaimRefused, ClaimInvalid, ClaimChanged, AmountsError, DriverFilesMissing or InterceptorDamaged.
    """
    previous = node.checkpoint.entries.get(claim.ref.uid)
    shares = tuple(
        resolve_share(claim, index, result, options=node.options, gpus=node.gpus, previous=previous)
        for index, result in enumerate(claim.results)
    )
    records = tuple(share.record for share in shares)
    _require_distinct(claim, records)
    for share in shares:
        _require_driver_in_use(share.gpu, node.driver)
    same = previous is not None and previous.allocations == records
    if previous is not None and not same:
        _require_unused(claim, previous, node.users.get(claim.ref.uid, 0))
    if previous is None or not (same and previous.handed_out):
        # What is handed out stays valid when an administrator lowers a scale: overcommitted, but in use.
        check_capacity(
            claim.ref, records, node.gpus, options=node.options, checkpoint=node.checkpoint, users=node.users
        )
    digest = _pinned_digest(previous if same else None, node)
    entry = ClaimEntry(
        claim_uid=claim.ref.uid,
        namespace=claim.ref.namespace,
        name=claim.ref.name,
        state=EntryState.PREPARED,
        library_digest=digest,
        allocations=records,
    )
    return NodePlan(
        entry=entry,
        previous=previous,
        stale=previous is not None and not same,
        files=tuple(_allocation_files(share, node.options) for share in shares),
        spec_path=spec_path(node.options, claim.ref.uid),
        spec=_spec(shares, digest, node),
        devices=tuple(_prepared_device(record) for record in records),
    )


def _require_unused(claim: ClaimAllocation, previous: ClaimEntry, users: int) -> None:
    """Raise ClaimChanged if containers may have `previous`, which is not what the claim is allocated now."""
    if previous.state is EntryState.PREPARED:
        raise ClaimChanged(
            str(claim.ref),
            "is prepared on this node with another allocation",
            remedy="delete the pods that use it; it is prepared anew when the last of them is gone",
        )
    if users:
        raise ClaimChanged(
            str(claim.ref),
            f"was allocated anew while its former allocation is still in use ({processes(users)})",
            remedy="it is tried again; if those processes do not end by themselves, end them",
        )


def _require_driver_in_use(gpu: Gpu, driver: DriverFiles) -> None:
    """Raise DriverFilesMissing if the files are not of the driver that runs `gpu`.

    A package that was updated without a reboot leaves that: NVML goes on in this process, with the library that is gone
    from the disk, but a container would get libraries that the kernel module turns away.
    """
    installed = normalise_version(driver.version)
    if UNKNOWN_VERSION in (installed, gpu.driver_version) or installed == gpu.driver_version:
        return
    raise DriverFilesMissing(
        f"GPU {gpu.uuid}",
        f"runs with driver {gpu.driver_version}, but the files in {driver.root} are of {installed}",
        remedy="reboot the node or reload the nvidia kernel modules, so that the installed driver is the one in use",
    )


def _require_distinct(claim: ClaimAllocation, records: tuple[AllocationRecord, ...]) -> None:
    identifiers = [record.allocation_id for record in records]
    repeated = sorted({one for one in identifiers if identifiers.count(one) > 1})
    if repeated:
        raise ClaimRefused(
            str(claim.ref),
            f"two results have the allocation id {repeated[0]}",
            code=ReasonCode.AMOUNTS_INVALID,
            remedy="delete the claim so that it is allocated again, with other share ids",
        )


def _pinned_digest(previous: ClaimEntry | None, node: NodeFacts) -> str:
    """Keep the interceptor that the claim's containers have, as long as it is still on the node.

    Raises InterceptorDamaged when neither that nor the plugin's own is: a spec must not name files that are gone.
    """
    if previous is not None and previous.library_digest in node.stored_digests:
        return previous.library_digest
    if node.library_digest not in node.stored_digests:
        raise InterceptorDamaged(
            f"interceptor {node.options.state_dir / 'lib' / node.library_digest}",
            "is not on this node any more",
            remedy="restart the plugin, it stores the interceptor again",
        )
    return node.library_digest


def _allocation_files(share: Share, options: PluginOptions) -> AllocationFiles:
    record = share.record
    capped = record.limited and share.class_config.cores_policy != "None"
    return AllocationFiles(
        directory=allocation_directory(options, record.allocation_id),
        page=ConfigPage(
            allocation_id=record.allocation_id,
            device_uuid=record.gpu_uuid,
            memory_limit_bytes=record.memory_bytes if record.limited else None,
            cores_percent=record.cores if capped else 0,
            observe=not record.limited,
        ),
    )


def _spec(shares: tuple[Share, ...], digest: str, node: NodeFacts) -> CdiSpec:
    options = node.options
    common = driver_edits(
        node.driver,
        host_root=options.driver_root_on_host,
        library_directory=options.state_dir / "lib" / digest,
        directories=library_directories(node.machine),
    )
    if digest in node.strict_digests and any(share.class_config.strict for share in shares):
        # For all devices of the claim: a container that gets two of them has one /etc/ld.so.preload.
        strict = strict_edits(options.state_dir / "lib" / digest)
        common = replace(common, mounts=(*common.mounts, *strict.mounts))
    devices = [
        (
            share.record.allocation_id,
            allocation_edits(
                share.record,
                gpu=share.gpu,
                directory=allocation_directory(options, share.record.allocation_id),
                device_nodes=_device_nodes(share.gpu, node),
                dev_root=options.dev_root,
            ),
        )
        for share in shares
    ]
    return claim_spec(common, devices)


def _device_nodes(gpu: Gpu, node: NodeFacts) -> tuple[str, ...]:
    if gpu.minor_number is None:
        raise DriverFilesMissing(
            f"GPU {gpu.uuid}", "has no minor number, so its device node is unknown", remedy="update the NVIDIA driver"
        )
    return gpu_device_nodes(node.device_nodes, gpu.minor_number)


def _prepared_device(record: AllocationRecord) -> PreparedDevice:
    return PreparedDevice(
        request_names=(record.request,),
        pool=record.pool,
        device=record.device,
        cdi_device_ids=(cdi_device_id(record.allocation_id),),
        share_id=record.share_id,
    )

"""Prepares and takes back one claim: reads what is so, lets plan decide, lets apply act.

The claim and the driver are read before the node lock is taken, because they may be slow; the checkpoint is read under
it, because concurrent calls and another plugin of a rolling update change it.
"""

from contextlib import AbstractContextManager
from pathlib import Path
from typing import Final

from fracgpu.cdi.discovery import discover_driver, list_device_nodes
from fracgpu.driver.inventory import GpuInventory
from fracgpu.kubeletplugin.apply import Applier
from fracgpu.kubeletplugin.checkpoint import CheckpointStore
from fracgpu.kubeletplugin.claim import ClaimRef, parse_claim
from fracgpu.kubeletplugin.cluster import ClusterApi
from fracgpu.kubeletplugin.errors import ClaimInvalid, NotFound
from fracgpu.kubeletplugin.files import Files
from fracgpu.kubeletplugin.interceptor_store import InterceptorStore
from fracgpu.kubeletplugin.node_lock import node_lock
from fracgpu.kubeletplugin.options import PluginOptions
from fracgpu.kubeletplugin.outcome import PreparedClaim, ReleasedClaim
from fracgpu.kubeletplugin.plan import NodeFacts, plan_prepare

CHECKPOINT_FILE: Final = "checkpoint.json"
LOCK_FILE: Final = "node.lock"
LIBRARY_DIRECTORY: Final = "lib"


class ClaimPreparer:
    """Prepares claims on this node. Safe to use from several threads, and beside another plugin on the node."""

    def __init__(
        self,
        *,
        options: PluginOptions,
        cluster: ClusterApi,
        inventory: GpuInventory,
        libraries: tuple[Path, ...],
        machine: str,
        files: Files | None = None,
    ) -> None:
        """Store the interceptor `libraries` on the node. Raises OSError or InterceptorDamaged."""
        self._options = options
        self._cluster = cluster
        self._inventory = inventory
        self._machine = machine
        self._files = files or Files()
        self._checkpoints = CheckpointStore(options.state_dir / CHECKPOINT_FILE, self._files)
        self._interceptors = InterceptorStore(options.state_dir / LIBRARY_DIRECTORY, self._files)
        self._applier = Applier(options, self._checkpoints, self._files)
        self._files.make_directory(options.state_dir)
        self._files.make_directory(options.state_dir / LIBRARY_DIRECTORY)
        with self._locked():
            self._library_digest = self._interceptors.install(libraries)
            self._checkpoints.load()

    def prepare(self, ref: ClaimRef) -> PreparedClaim:
        """Prepare the claim, however often it was prepared before.

        Raises FracgpuError with a text for the pod's event, or OSError.
        """
        try:
            raw = self._cluster.get_claim(ref.namespace, ref.name)
        except NotFound as error:
            raise ClaimInvalid(str(ref), "does not exist", remedy="delete the pod, its claim is gone") from error
        claim = parse_claim(raw, ref)
        gpus = self._inventory.list_gpus()
        driver = discover_driver(self._options.driver_root)
        device_nodes = list_device_nodes(self._options.dev_root)
        with self._locked():
            checkpoint = self._checkpoints.load()
            facts = NodeFacts(
                options=self._options,
                gpus=gpus,
                driver=driver,
                device_nodes=device_nodes,
                machine=self._machine,
                library_digest=self._library_digest,
                stored_digests=self._interceptors.digests(),
                checkpoint=checkpoint,
            )
            plan = plan_prepare(claim, facts)
            self._applier.prepare(plan, checkpoint)
        return PreparedClaim(
            devices=plan.devices,
            pods=claim.pods,
            gpu_uuids=tuple(dict.fromkeys(record.gpu_uuid for record in plan.entry.allocations)),
        )

    def unprepare(self, ref: ClaimRef) -> ReleasedClaim:
        """Take the claim back, from the checkpoint alone.

        Raises CheckpointInvalid or OSError.
        """
        with self._locked():
            checkpoint = self._checkpoints.load()
            entry = checkpoint.entries.get(ref.uid)
            if entry is None:
                return ReleasedClaim(known=False)
            self._applier.release(entry, checkpoint)
        return ReleasedClaim(known=True, gpu_uuids=tuple(dict.fromkeys(r.gpu_uuid for r in entry.allocations)))

    def _locked(self) -> AbstractContextManager[None]:
        return node_lock(self._options.state_dir / LOCK_FILE)

"""Prepares and takes back one claim: reads what is so, lets plan decide, lets apply act.

The claim and the driver are read before the node lock is taken, because they may be slow; the checkpoint is read under
it, because concurrent calls and another plugin of a rolling update change it. Everything that is waited for is limited
by the call's deadline, which is looked at a last time before the first change.
"""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Final

from fracgpu.cdi.writer import temporary_path
from fracgpu.driver.gpu import Gpu
from fracgpu.driver.inventory import GpuInventory
from fracgpu.driver.kube.errors import NotFound
from fracgpu.kubeletplugin.api.cluster import ClusterApi
from fracgpu.kubeletplugin.errors import ClaimInvalid
from fracgpu.kubeletplugin.gpus.deadline_inventory import answer_within
from fracgpu.kubeletplugin.gpus.node_driver import NodeDriver, read_driver
from fracgpu.kubeletplugin.options import PluginOptions
from fracgpu.kubeletplugin.prepare.apply import Applier
from fracgpu.kubeletplugin.prepare.checkpoint import CheckpointStore
from fracgpu.kubeletplugin.prepare.claim import ClaimAllocation, ClaimRef, parse_claim
from fracgpu.kubeletplugin.prepare.claim_order import ClaimOrder
from fracgpu.kubeletplugin.prepare.deadline import CALL_SECONDS, Deadline
from fracgpu.kubeletplugin.prepare.edits import PRELOAD_LIST
from fracgpu.kubeletplugin.prepare.files import Files
from fracgpu.kubeletplugin.prepare.interceptor_store import InterceptorStore
from fracgpu.kubeletplugin.prepare.node_lock import node_lock
from fracgpu.kubeletplugin.prepare.outcome import PreparedClaim, ReleasedClaim
from fracgpu.kubeletplugin.prepare.patient_read import read_patiently
from fracgpu.kubeletplugin.prepare.plan import NodeFacts, plan_prepare
from fracgpu.kubeletplugin.tracing import about, step

CHECKPOINT_FILE: Final = "checkpoint.json"
LOCK_FILE: Final = "node.lock"
LIBRARY_DIRECTORY: Final = "lib"


class ClaimPreparer:
    """Prepares claims on this node. Safe to use from several threads, and beside another plugin on the node.

    `library_digest` names the interceptor that new claims get.
    """

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
        """Store the interceptor `libraries` on the node.

        Raises OSError, InterceptorDamaged, CheckpointInvalid or NodeLockTimeout.
        """
        self._options = options
        self._cluster = cluster
        self._inventory = inventory
        self._libraries = libraries
        self._machine = machine
        self._files = files or Files()
        self._order = ClaimOrder()
        self._checkpoints = CheckpointStore(options.state_dir / CHECKPOINT_FILE, self._files)
        self._interceptors = InterceptorStore(options.state_dir / LIBRARY_DIRECTORY, self._files)
        self._applier = Applier(options, self._checkpoints, self._files)
        self._files.make_directory(options.state_dir / LIBRARY_DIRECTORY, durable=True)
        with node_lock(options.state_dir / LOCK_FILE, CALL_SECONDS):
            self._files.remove(temporary_path(self._checkpoints.path))
            self._interceptors.remove_temporaries()
            self.library_digest: Final = self._interceptors.install(libraries)
            self._checkpoints.load()

    def prepare(self, ref: ClaimRef, deadline: Deadline | None = None) -> PreparedClaim:
        """Prepare the claim, however often it was prepared before, before `deadline` (by default CALL_SECONDS).

        Raises FracgpuError with a text for the pod's event, or OSError.
        """
        deadline = deadline or Deadline()
        with self._order.preparing(ref) as turn:
            claim = self._read_claim(ref, deadline)
            about(pods=claim.pods)
            with step("list-gpus"), answer_within(deadline.remaining_seconds):
                gpus = self._inventory.list_gpus()
            deadline.check(str(ref), "the list of GPUs")
            # Now, not when it is planned: a refusal names its GPUs, too.
            devices = {result.device for result in claim.results}
            about(gpu_uuids=(gpu.uuid for gpu in gpus if gpu.device_name in devices))
            with step("read-driver"):
                driver = read_driver(self._options)
            with self._locked(ref, deadline):
                turn.check()
                return self._prepare(claim, gpus, driver, deadline)

    def unprepare(self, ref: ClaimRef, deadline: Deadline | None = None) -> ReleasedClaim:
        """Take the claim back, from the checkpoint alone, before `deadline` (by default CALL_SECONDS).

        What processes still use stays until they are gone (see fracgpu.kubeletplugin.janitor.janitor).
        Raises CheckpointInvalid, NodeLockTimeout, DeadlineExceeded or OSError.
        """
        with self._locked(ref, deadline or Deadline()):
            checkpoint = self._checkpoints.load()
            entry = checkpoint.entries.get(ref.uid)
            if entry is None:
                self._order.unprepared(ref)
                return ReleasedClaim(known=False)
            about(gpu_uuids=entry.gpu_uuids)
            deferred = self._applier.users(entry) > 0
            with step("release"):
                if deferred:
                    self._applier.defer(entry, checkpoint)
                else:
                    self._applier.release(entry, checkpoint)
            self._order.unprepared(ref)
        return ReleasedClaim(known=True, deferred=deferred, gpu_uuids=entry.gpu_uuids)

    def _read_claim(self, ref: ClaimRef, deadline: Deadline) -> ClaimAllocation:
        deadline.check(str(ref), "waiting for its turn")
        try:
            with step("read-claim"):
                raw = read_patiently(self._cluster, ref, deadline)
        except NotFound as error:
            raise ClaimInvalid(str(ref), "does not exist", remedy="delete the pod, its claim is gone") from error
        deadline.check(str(ref), "the API server")
        return parse_claim(raw, ref)

    def _prepare(
        self, claim: ClaimAllocation, gpus: tuple[Gpu, ...], driver: NodeDriver, deadline: Deadline
    ) -> PreparedClaim:
        checkpoint = self._applier.finish_releases(self._checkpoints.load(), keep=claim.ref.uid)
        if self.library_digest not in self._interceptors.digests():
            # Another plugin's janitor saw nothing that names it.
            self._interceptors.install(self._libraries)
        facts = NodeFacts(
            options=driver.options,
            gpus=gpus,
            driver=driver.files,
            device_nodes=driver.device_nodes,
            machine=self._machine,
            library_digest=self.library_digest,
            stored_digests=self._interceptors.digests(),
            strict_digests=self._interceptors.digests_with(PRELOAD_LIST),
            checkpoint=checkpoint,
            users=self._applier.users_by_claim(checkpoint, claim.ref.uid),
        )
        with step("plan"):
            plan = plan_prepare(claim, facts)
        about(gpu_uuids=plan.entry.gpu_uuids)
        deadline.check(str(claim.ref), "planning")
        with step("apply"):
            self._applier.prepare(plan, checkpoint)
        return PreparedClaim(devices=plan.devices, pods=claim.pods, gpu_uuids=plan.entry.gpu_uuids)

    @contextmanager
    def _locked(self, ref: ClaimRef, deadline: Deadline) -> Iterator[None]:
        with ExitStack() as held:
            with step("node-lock"):
                held.enter_context(node_lock(self._options.state_dir / LOCK_FILE, deadline.remaining_seconds))
            deadline.check(str(ref), "the node lock")
            yield

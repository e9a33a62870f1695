"""The kubelet's DRA manager: claims of pods are prepared before their containers exist and released after the last.

What the kubelet checks it checks (the claim exists, is allocated, reserved for the pod, made for it, still the same
object, its drivers are there), and what it leaves to the driver it leaves: neither node selectors nor devices nor
amounts are looked at here. All checks of all claims come before anything is remembered, so that a pod that never got
that far can leave. What the kubelet does carelessly is done so here, because a driver has to live with it: a retry
appends devices a second time, the order of ids is random, two pods of a claim may have it prepared at once, and a pod
that leaves releases the claims that it names, whether or not it is the one that uses them.

Source: pkg/kubelet/cm/dra/manager.go of Kubernetes 1.36.3, whose texts these are.
"""

from __future__ import annotations

import logging
import random
import threading
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

from fracgpu.sim.node.api import Json, KubeApi
from fracgpu.sim.node.claim_cache import ClaimCache, ClaimInfo
from fracgpu.sim.node.device_health import DeviceHealthCache
from fracgpu.sim.node.dra_client import ClaimRef, node_prepare, node_unprepare
from fracgpu.sim.node.errors import ContainerCreateError, PrepareFailed, UnprepareFailed
from fracgpu.sim.node.plugin_registry import PluginRegistry
from fracgpu.sim.node.pod_claims import check_owner, pod_claims, pod_key
from fracgpu.sim.node.registration import RegisteredPlugin
from fracgpu.sim.node.resource_status import resource_status
from fracgpu.sim.transport import ApiRefusedError, ApiUnreachableError

_LOG = logging.getLogger(__name__)
_CLAIMS = "/apis/resource.k8s.io/v1/namespaces/{namespace}/resourceclaims/{name}"
_AGAIN = "preparation is tried again with the pod's next sync"


@dataclass(frozen=True, slots=True)
class _Checked:
    """A claim that passed every check, and the plugins of its drivers as they were then."""

    info: ClaimInfo
    plugins: dict[str, RegisteredPlugin]


class ClaimManager:
    """Prepares and releases claims; safe to use from several threads. No lock is held while a driver works."""

    def __init__(
        self, api: KubeApi, registry: PluginRegistry, checkpoint: Path, health: DeviceHealthCache | None = None
    ) -> None:
        self._health = health or DeviceHealthCache()
        self._api = api
        self._registry = registry
        self._lock = threading.Lock()
        self._cache = ClaimCache(checkpoint)

    def prepare(self, pod: Json) -> None:
        """Prepare every claim of ``pod`` that is not prepared on this node yet.

        Raises:
            ClaimNotNamed, ClaimNotForPod, PrepareFailed: at least one claim is not ready. Calling again is the remedy.

        """
        checked = self._check(pod)
        with self._lock:
            fresh = self._remember(pod, checked)
        batches: dict[str, list[ClaimInfo]] = {}
        plugins: dict[str, RegisteredPlugin] = {}
        for one in fresh:
            for driver in one.info.drivers:
                batches.setdefault(driver, []).append(one.info)
                plugins[driver] = one.plugins[driver]
        for driver, infos in batches.items():
            by_ref = {info.ref: info for info in infos}
            for ref, devices in node_prepare(plugins[driver], list(by_ref)):
                with self._lock:
                    # A second time after a retry: the kubelet appends without looking.
                    by_ref[ref].devices.extend(devices)
        with self._lock:
            for one in fresh:
                one.info.prepared = True
                _LOG.info("prepared", extra={"claim": f"{one.info.ref.namespace}/{one.info.ref.name}"})
            self._cache.save()

    def release(self, pod: Json) -> None:
        """Release the claims that ``pod`` names and that no other pod of this node uses.

        Raises:
            ClaimNotNamed, UnprepareFailed: a claim is not released; calling again is the remedy.

        """
        names = [one.claim for one in pod_claims(pod) if one.claim]
        self._release(pod["metadata"]["uid"], pod["metadata"]["namespace"], names)

    def release_gone(self, active: Collection[str]) -> None:
        """Release what pods hold that are not among the ``active`` ones (uids); what fails is tried the next time."""
        gone: dict[tuple[str, str], list[str]] = {}
        with self._lock:
            for info in self._cache.all():
                for uid in info.pods - set(active):
                    gone.setdefault((uid, info.ref.namespace), []).append(info.ref.name)
        for (uid, namespace), names in gone.items():
            try:
                self._release(uid, namespace, names)
            except UnprepareFailed as error:
                _LOG.warning("claims of a pod that is gone cannot be released yet: %s", error)

    def cdi_devices(self, pod: Json, container: Json) -> list[str]:
        """Return the CDI ids for ``container``: claims in random order, an id as often as it was prepared or asked for.

        A container that names a request of a claim gets only the devices of that request, and those that name none.

        Raises:
            ClaimNotNamed, ContainerCreateError: a claim is not known here (any more).

        """
        wanted: dict[str, list[str]] = {}
        for claim in pod_claims(pod):
            for entry in container.get("resources", {}).get("claims") or []:
                if claim.claim and entry["name"] == claim.name:
                    wanted.setdefault(claim.claim, []).append(entry.get("request", ""))
        ids: list[str] = []
        namespace = pod["metadata"]["namespace"]
        for name in random.sample(list(wanted), len(wanted)):
            with self._lock:
                info = self._cache.get(namespace, name)
            if info is None:
                what = f"unable to get claim info for ResourceClaim {name} in namespace {namespace}"
                subject = f"container {pod_key(pod)}/{container['name']}"
                raise ContainerCreateError(subject, f"internal error: {what}", remedy="delete the pod")
            for request in wanted[name]:
                ids += [one for device in info.devices_of(request) for one in device.cdi_device_ids]
        return ids

    def allocated_resources(self, pod: Json) -> dict[str, list[Json]]:
        """Return allocatedResourcesStatus of each container: the health of the devices that its claims gave it."""
        with self._lock:
            known = {
                info.ref.name: info for info in self._cache.all() if info.ref.namespace == pod["metadata"]["namespace"]
            }
        return resource_status(pod, known, self._health)

    def _check(self, pod: Json) -> list[_Checked]:
        """Make the kubelet's checks of all claims; nothing is remembered before all of them passed."""
        found = []
        for entry in pod_claims(pod):
            if not entry.claim:
                continue
            claim = self._fetch(pod, entry.claim)
            if entry.from_template:
                check_owner(pod, claim)
            info = _admit(pod, claim)
            # Also for a claim that is prepared already: without its driver something is wrong with the node.
            found.append(_Checked(info, {driver: self._plugin(pod, driver) for driver in info.drivers}))
        return found

    def _fetch(self, pod: Json, name: str) -> Json:
        try:
            return self._api.get(_CLAIMS.format(namespace=pod["metadata"]["namespace"], name=name))
        except (ApiRefusedError, ApiUnreachableError) as error:
            raise _failed(pod, f"fetch ResourceClaim {name}: {error.what}") from error

    def _plugin(self, pod: Json, driver: str) -> RegisteredPlugin:
        plugin = self._registry.get(driver)
        if plugin is None:
            raise _failed(pod, f"DRA driver {driver} is not registered")
        return plugin

    def _remember(self, pod: Json, checked: list[_Checked]) -> list[_Checked]:
        """Note that ``pod`` uses its claims, before any driver is asked; return those that have to be prepared."""
        fresh = []
        for one in checked:
            ref = one.info.ref
            info = self._cache.get(ref.namespace, ref.name)
            if info is None:
                info = one.info
                self._cache.add(info)
            elif info.ref.uid != ref.uid:
                what = f"old ResourceClaim with same name {ref.name} and different UID {info.ref.uid} still exists"
                raise _failed(pod, f"{what} (previous pod force-deleted?!)")
            info.pods.add(pod["metadata"]["uid"])
            self._cache.save()
            if not info.prepared:
                fresh.append(_Checked(info, one.plugins))
        return fresh

    def _release(self, pod_uid: str, namespace: str, names: Collection[str]) -> None:
        batches: dict[str, list[ClaimRef]] = {}
        with self._lock:
            unused = []
            for info in filter(None, [self._cache.get(namespace, name) for name in names]):
                if len(info.pods) > 1:
                    info.pods.discard(pod_uid)
                    continue
                # Nobody looks whether the one pod left is this one.
                unused.append(info.ref)
                for driver in info.drivers:
                    batches.setdefault(driver, []).append(info.ref)
        for driver, refs in batches.items():
            plugin = self._registry.get(driver)
            if plugin is None:
                what = f"DRA driver {driver} is not registered"
                raise UnprepareFailed(f"driver {driver}", what, remedy="start its plugin again")
            node_unprepare(plugin, refs)
        with self._lock:
            for ref in unused:
                self._cache.forget(ref)
                _LOG.info("released", extra={"claim": f"{ref.namespace}/{ref.name}"})
            self._cache.save()


def _admit(pod: Json, claim: Json) -> ClaimInfo:
    """Check that ``claim`` is reserved for ``pod`` and allocated; return it as one that nobody has prepared."""
    metadata = claim["metadata"]
    reserved = {entry["uid"] for entry in claim.get("status", {}).get("reservedFor") or []}
    if pod["metadata"]["uid"] not in reserved:
        who, which = (f"{one['name']} ({one['uid']})" for one in (pod["metadata"], metadata))
        raise _failed(pod, f"pod {who} is not allowed to use ResourceClaim {which}")
    allocation = claim["status"].get("allocation")
    if not allocation:
        raise _failed(pod, f"ResourceClaim {metadata['name']}: not allocated")
    drivers = sorted({result["driver"] for result in allocation.get("devices", {}).get("results") or []})
    return ClaimInfo(ClaimRef(namespace=metadata["namespace"], name=metadata["name"], uid=metadata["uid"]), drivers)


def _failed(pod: Json, what: str) -> PrepareFailed:
    return PrepareFailed(f"pod {pod_key(pod)}", what, remedy=_AGAIN)

"""The kubelet's DRA manager: claims of pods are prepared before their containers exist and released after the last.

What the kubelet checks it checks (the claim exists, is allocated, reserved for the pod, still the same object), and
what it leaves to the driver it leaves: neither node selectors nor devices nor amounts are looked at here. A claim that
several pods of the node share is prepared once and released with the last of them. What was prepared is remembered in
a checkpoint, so that a restarted node still knows which claims it owes a release.
"""

from __future__ import annotations

import json
import logging
import threading
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from fracgpu.sim.node.api import Json, KubeApi
from fracgpu.sim.node.device_health import DeviceHealthCache
from fracgpu.sim.node.dra_client import ClaimRef, PreparedDevice, node_prepare, node_unprepare
from fracgpu.sim.node.errors import PrepareFailed, UnprepareFailed
from fracgpu.sim.node.plugin_registry import PluginRegistry
from fracgpu.sim.transport import ApiRefusedError, ApiUnreachableError

_LOG = logging.getLogger(__name__)
_CLAIMS = "/apis/resource.k8s.io/v1/namespaces/{namespace}/resourceclaims/{name}"


@dataclass(slots=True)
class _ClaimState:
    """One claim as this node knows it: its drivers, the local pods that use it, what the drivers prepared."""

    ref: ClaimRef
    drivers: list[str]
    pods: set[str] = field(default_factory=set)
    devices: list[PreparedDevice] = field(default_factory=list)
    prepared: bool = False


class ClaimManager:
    """Prepares and releases claims; one call at a time, as pods of a node are few and claims may be shared."""

    def __init__(
        self, api: KubeApi, registry: PluginRegistry, checkpoint: Path, health: DeviceHealthCache | None = None
    ) -> None:
        self._health = health or DeviceHealthCache()
        self._api = api
        self._registry = registry
        self._checkpoint = checkpoint
        self._lock = threading.Lock()
        self._claims: dict[str, _ClaimState] = self._load()

    def prepare(self, pod: Json) -> None:
        """Prepare every claim of ``pod`` that is not prepared on this node yet.

        Raises:
            PrepareFailed: at least one claim is not ready; the others may be. Calling again is the remedy.

        """
        with self._lock:
            fresh: list[_ClaimState] = []
            for claim in self._claims_of(pod):
                state = self._admit(pod, claim)
                state.pods.add(pod["metadata"]["uid"])
                if not state.prepared:
                    fresh.append(state)
            self._save()
            for driver in sorted({driver for state in fresh for driver in state.drivers}):
                self._prepare_with(driver, [state for state in fresh if driver in state.drivers])
            for state in fresh:
                state.prepared = True
                ids = [device_id for device in state.devices for device_id in device.cdi_device_ids]
                _LOG.info("prepared: %s", ", ".join(ids), extra={"claim": f"{state.ref.namespace}/{state.ref.name}"})
            self._save()

    def cdi_devices(self, pod: Json, container: Json) -> list[str]:
        """Return the CDI ids for ``container``, in the order of its claims, each once.

        A container that names a request of a claim gets only the devices of that request, and those that name none.
        """
        names = claim_names(pod)
        ids: dict[str, None] = {}
        with self._lock:
            for entry in container.get("resources", {}).get("claims") or []:
                state = self._by_name(pod["metadata"]["namespace"], names[entry["name"]])
                for device in state.devices:
                    wanted = entry.get("request")
                    if not wanted or not device.request_names or wanted in device.request_names:
                        ids.update(dict.fromkeys(device.cdi_device_ids))
        return list(ids)

    def allocated_resources(self, pod: Json) -> dict[str, list[Json]]:
        """Return allocatedResourcesStatus of each container: the health of the devices that its claims gave it."""
        names = claim_names(pod)
        return {
            container["name"]: [
                self._claim_health(pod, entry, names[entry["name"]])
                for entry in container.get("resources", {}).get("claims") or []
                if names.get(entry["name"])
            ]
            for container in pod["spec"]["containers"]
        }

    def _claim_health(self, pod: Json, entry: Json, claim_name: str | None) -> Json:
        wanted = entry.get("request")
        resources: dict[str, Json] = {}
        # A copy instead of the lock, which another pod's Prepare may hold for as long as a driver takes.
        for state in list(self._claims.values()):
            if (state.ref.namespace, state.ref.name) != (pod["metadata"]["namespace"], claim_name):
                continue
            for device in state.devices:
                fits = not wanted or not device.request_names or wanted in device.request_names
                if fits and device.cdi_device_ids:
                    # The resource is named by the first CDI id, and each is shown once.
                    shown = self._health.get(device.driver, device.pool_name, device.device_name)
                    resource = {"resourceID": device.cdi_device_ids[0], "health": shown.health}
                    resources.setdefault(
                        device.cdi_device_ids[0], resource | ({"message": shown.message} if shown.message else {})
                    )
        return {
            "name": f"claim:{entry['name']}" + (f"/{wanted}" if wanted else ""),
            "resources": list(resources.values()),
        }

    def release(self, pod_uid: str) -> None:
        """Forget ``pod_uid`` and release the claims that no other pod of this node uses.

        Raises:
            UnprepareFailed: a driver could not release a claim; calling again is the remedy.

        """
        with self._lock:
            unused = [state for state in self._claims.values() if state.pods == {pod_uid}]
            for driver in sorted({driver for state in unused for driver in state.drivers}):
                self._release_with(driver, [state.ref for state in unused if driver in state.drivers])
            for state in unused:
                del self._claims[state.ref.uid]
                _LOG.info("released", extra={"claim": f"{state.ref.namespace}/{state.ref.name}"})
            for state in self._claims.values():
                state.pods.discard(pod_uid)
            self._save()

    def pods(self) -> set[str]:
        """Return the uids of all pods that hold claims on this node."""
        with self._lock:
            return {uid for state in self._claims.values() for uid in state.pods}

    def _claims_of(self, pod: Json) -> Iterable[Json]:
        namespace = pod["metadata"]["namespace"]
        for pod_claim, name in claim_names(pod).items():
            if not name:
                raise _failed(f"claim {pod_claim} of pod {_key(pod)}", "it was not created yet from its template")
            try:
                yield self._api.get(_CLAIMS.format(namespace=namespace, name=name))
            except (ApiRefusedError, ApiUnreachableError) as error:
                raise _failed(f"claim {namespace}/{name}", f"cannot be read: {error.what}") from error

    def _admit(self, pod: Json, claim: Json) -> _ClaimState:
        """Make the kubelet's checks and return the state of the claim."""
        metadata = claim["metadata"]
        subject = f"claim {metadata['namespace']}/{metadata['name']}"
        allocation = claim.get("status", {}).get("allocation")
        reserved = {entry["uid"] for entry in claim.get("status", {}).get("reservedFor") or []}
        if not allocation:
            raise _failed(subject, "it is not allocated")
        if pod["metadata"]["uid"] not in reserved:
            raise _failed(subject, f"pod {_key(pod)} is not allowed to use it (status.reservedFor)")
        for state in self._claims.values():
            same_name = (state.ref.namespace, state.ref.name) == (metadata["namespace"], metadata["name"])
            if same_name and state.ref.uid != metadata["uid"]:
                raise _failed(subject, f"an older claim of this name (uid {state.ref.uid}) is not released yet")
        drivers = sorted({result["driver"] for result in allocation.get("devices", {}).get("results") or []})
        ref = ClaimRef(namespace=metadata["namespace"], name=metadata["name"], uid=metadata["uid"])
        return self._claims.setdefault(ref.uid, _ClaimState(ref=ref, drivers=drivers))

    def _prepare_with(self, driver: str, states: list[_ClaimState]) -> None:
        plugin = self._registry.get(driver)
        if plugin is None:
            raise _failed(f"driver {driver}", "DRA driver is not registered on this node")
        answers = node_prepare(plugin, [state.ref for state in states])
        for state in states:
            # Appending twice what a retry prepared twice is what old kubelets did; ids are compared instead.
            state.devices.extend(device for device in answers[state.ref.uid] if device not in state.devices)

    def _release_with(self, driver: str, refs: list[ClaimRef]) -> None:
        plugin = self._registry.get(driver)
        if plugin is None:
            raise UnprepareFailed(
                f"driver {driver}", "DRA driver is not registered on this node", remedy="start its plugin again"
            )
        node_unprepare(plugin, refs)

    def _by_name(self, namespace: str, name: str | None) -> _ClaimState:
        for state in self._claims.values():
            if (state.ref.namespace, state.ref.name) == (namespace, name):
                return state
        raise _failed(f"claim {namespace}/{name}", "it is not prepared")

    def _load(self) -> dict[str, _ClaimState]:
        """Read the checkpoint. Devices are kept, ``prepared`` is not: after a restart drivers are asked again."""
        try:
            entries = json.loads(self._checkpoint.read_bytes())
        except FileNotFoundError:
            return {}
        return {entry["ref"]["uid"]: _state_from(entry) for entry in entries}

    def _save(self) -> None:
        entries = [
            {
                "ref": asdict(state.ref),
                "drivers": state.drivers,
                "pods": sorted(state.pods),
                "devices": [asdict(device) for device in state.devices],
            }
            for state in self._claims.values()
        ]
        self._checkpoint.parent.mkdir(parents=True, exist_ok=True)
        temporary = self._checkpoint.with_suffix(".tmp")
        temporary.write_text(json.dumps(entries, indent=1))
        temporary.rename(self._checkpoint)


def claim_names(pod: Json) -> dict[str, str | None]:
    """Return claim object names by the names that the pod gives them; None for a template not yet expanded."""
    generated = {
        entry["name"]: entry.get("resourceClaimName")
        for entry in pod.get("status", {}).get("resourceClaimStatuses") or []
    }
    return {
        entry["name"]: entry.get("resourceClaimName") or generated.get(entry["name"])
        for entry in pod["spec"].get("resourceClaims") or []
    }


def _state_from(entry: dict[str, Any]) -> _ClaimState:
    devices = [
        PreparedDevice(**{**device, **{key: tuple(device[key]) for key in ("request_names", "cdi_device_ids")}})
        for device in entry["devices"]
    ]
    return _ClaimState(ref=ClaimRef(**entry["ref"]), drivers=entry["drivers"], pods=set(entry["pods"]), devices=devices)


def _key(pod: Json) -> str:
    return f"{pod['metadata']['namespace']}/{pod['metadata']['name']}"


def _failed(subject: str, what: str) -> PrepareFailed:
    return PrepareFailed(subject, what, remedy="preparation is tried again")

"""The cluster as the allocator knows it: fed with news, asked for facts.

One thread feeds and asks. News may come twice, late, or in the wrong order between resources; what counts of an object
is its newest resourceVersion. Nothing in here talks to anybody: the command line builds the same world from lists.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Final, Literal

from fracgpu.controller.allocator.claim_book import ClaimBook, ClaimKey, ClaimNews
from fracgpu.controller.allocator.node_book import NodeBook, PodKey, Seat
from fracgpu.controller.allocator.pod_book import PodBook, is_alive
from fracgpu.controller.fit.ledger import Ledger
from fracgpu.controller.fit.views import Placement
from fracgpu.controller.objects.classes import class_names_of, is_our_class
from fracgpu.controller.objects.errors import SliceInvalid
from fracgpu.controller.objects.facts import (
    claim_names,
    dig,
    is_allocated,
    is_generated,
    is_owned_by,
    is_terminal,
    name_of,
    namespace_of,
    node_name_of,
    text,
    uid_of,
)
from fracgpu.controller.objects.holdings import node_of
from fracgpu.controller.objects.inventory import read_inventory
from fracgpu.controller.ports import Change, Json
from fracgpu.controller.quota.asked import is_class_of_ours
from fracgpu.controller.quota.book import QuotaBook
from fracgpu.driver.names import DRIVER_NAME

PODS: Final = "pods"
NODES: Final = "nodes"
CLAIMS: Final = "resourceclaims"
SLICES: Final = "resourceslices"
CLASSES: Final = "deviceclasses"
QUOTAS: Final = "fractionquotas"
RESOURCES: Final = (NODES, SLICES, CLASSES, CLAIMS, PODS, QUOTAS)
"""What the world wants to be told of, by the plural of the resource."""

Owner = Literal["controller", "scheduler"]


class World:
    """Everything that decides where claims go. `owner` tells whose GPUs are looked at."""

    def __init__(self, owner: Owner = "controller") -> None:
        self.owner: Final = owner
        self.ledger = Ledger()
        self.quotas = QuotaBook(self.ledger.gpu)
        self.claims = ClaimBook(self.ledger, self.quotas)
        self.pods = PodBook()
        self.nodes = NodeBook()
        self.supply_version = 0
        """Grows whenever something may fit that did not fit before."""
        self.slice_problems: dict[str, tuple[SliceInvalid, ...]] = {}
        """By node, what of its slices cannot be counted with."""
        self._classes: dict[str, Json] = {}
        self._ours: dict[str, bool] = {}
        self._slices: dict[str, Json] = {}
        self._slices_of: dict[str, dict[str, Json]] = {}
        self._listeners: list[Callable[[ClaimNews], None]] = []
        self._appliers: Final = {
            PODS: self._apply_pod,
            NODES: self._apply_node,
            CLAIMS: self._apply_claim,
            SLICES: self._apply_slice,
            CLASSES: self._apply_class,
            QUOTAS: self._apply_quota,
        }

    def on_claim(self, listener: Callable[[ClaimNews], None]) -> None:
        """Call `listener` with every change of a claim, after it is known here."""
        self._listeners.append(listener)

    def apply(self, change: Change) -> None:
        """Take in a piece of news. Resources that are not in RESOURCES are ignored."""
        applier = self._appliers.get(change.resource)
        if applier is not None:
            applier(change.obj, gone=change.kind == "DELETED")

    def take_in_claim(self, claim: Json) -> None:
        """Take in a claim as a write or a read returned it."""
        self._apply_claim(claim, gone=False)

    def find_class(self, name: str) -> Json | None:
        """Return a DeviceClass."""
        return self._classes.get(name)

    def slices(self) -> Iterable[Json]:
        """Return all ResourceSlices, whosever they are."""
        return self._slices.values()

    def is_our_class(self, name: str) -> bool:
        """Tell whether a DeviceClass selects our GPUs; one that is not known goes by its name."""
        found = self.find_class(name)
        return is_class_of_ours(name) if found is None else is_our_class(found)

    def largest_memory_bytes(self) -> int:
        """Return how much physical memory the largest GPU has, 0 when there is none."""
        return max((gpu.physical_memory_bytes for gpu in self.ledger.examples()), default=0)

    def is_ours(self, claim: Json) -> bool:
        """Tell whether a claim is for this allocator."""
        return any(self._is_our_class(name) for name in class_names_of(claim))

    def _is_our_class(self, name: str) -> bool:
        # A class is read once: this is asked of every claim of every pod that waits, in each round.
        ours = self._ours.get(name)
        if ours is None:
            found = self.find_class(name)
            ours = self._ours[name] = found is None or is_our_class(found)
        return ours

    def claims_of(self, pod: Json) -> tuple[list[Json], list[str]]:
        """Return the claims of a pod that exist, and the pod's own names of those that do not, or not yet."""
        found: list[Json] = []
        missing: list[str] = []
        for own_name, name in claim_names(pod).items():
            claim = self.claims.get((namespace_of(pod), name)) if name else None
            if claim is None or (is_generated(pod, own_name) and not is_owned_by(claim, pod)):
                missing.append(own_name)
            else:
                found.append(claim)
        return found, missing

    def open_claims_of(self, pod: Json) -> list[Json]:
        """Return the claims of a pod that are ours to allocate and are not allocated."""
        return [claim for claim in self.claims_of(pod)[0] if not is_allocated(claim) and self.is_ours(claim)]

    def assume(self, pod: Json | None, claims: Iterable[Json], placement: Placement) -> None:
        """Count a placement that is about to be written, and the pod on its node."""
        for claim in claims:
            self.claims.assume(claim, [device for device in placement.devices if device.claim == uid_of(claim)])
        if pod is not None:
            self._seat((namespace_of(pod), name_of(pod)), pod, placement.node)

    def settle(self, claim: Json) -> None:
        """Stop assuming what was to be written of a claim: it is known by now, or will never be."""
        if self.claims.settle(claim):
            self.supply_version += 1
        self._seat_users((namespace_of(claim), name_of(claim)))

    def _apply_pod(self, pod: Json, *, gone: bool) -> None:
        key = (namespace_of(pod), name_of(pod))
        if gone:
            known = self.pods.get(key)
            if known is not None and not self.pods.forget(pod):
                # Another pod has its name now, and its seat.
                return
            if self.nodes.remove_pod(key):
                self.supply_version += 1
        elif self.pods.take_in(pod):
            if self.pods.get(key) is not None:
                self._seat_user(key)
            else:
                # Without claims: it only takes room.
                self._seat(key, pod, node_name_of(pod))

    def _apply_node(self, node: Json, *, gone: bool) -> None:
        if gone:
            self.nodes.remove_node(node)
        elif self.nodes.set_node(node):
            self.supply_version += 1

    def _apply_slice(self, item: Json, *, gone: bool) -> None:
        name = name_of(item)
        before = self._slices.pop(name, None)
        for node in {text(one, "spec", "nodeName") for one in (before, item) if one is not None}:
            self._slices_of.get(node, {}).pop(name, None)
        if not gone:
            self._slices[name] = item
            self._slices_of.setdefault(text(item, "spec", "nodeName"), {})[name] = item
        touched = [one for one in (before, item) if one is not None and dig(one, "spec", "driver") == DRIVER_NAME]
        for node in {text(one, "spec", "nodeName") for one in touched}:
            mine = (one for one in self._slices_of.get(node, {}).values() if dig(one, "spec", "driver") == DRIVER_NAME)
            inventory = read_inventory(mine, owner=self.owner)
            gpus = self.ledger.gpus_of(node)
            self.ledger.set_gpus(node, inventory.gpus)
            self.slice_problems[node] = inventory.problems
            if self.ledger.gpus_of(node) != gpus:
                self.supply_version += 1

    def _apply_class(self, item: Json, *, gone: bool) -> None:
        if gone:
            self._classes.pop(name_of(item), None)
        else:
            self._classes[name_of(item)] = item
        self._ours.clear()
        self.supply_version += 1

    def _apply_quota(self, quota: Json, *, gone: bool) -> None:
        key = (namespace_of(quota), name_of(quota))
        before = self.quotas.quota(key)
        if gone:
            self.quotas.remove(quota)
        else:
            self.quotas.put(quota)
        after = self.quotas.quota(key)
        # Its status is our own report, about once a second: nobody has more for that.
        if before is None or after is None or before.hard != after.hard:
            self.supply_version += 1

    def _apply_claim(self, claim: Json, *, gone: bool) -> None:
        news = self.claims.forget(claim) if gone else self.claims.take_in(claim)
        if news is None:
            return
        if news.frees:
            self.supply_version += 1
        self._seat_users((namespace_of(claim), name_of(claim)))
        for listener in self._listeners:
            listener(news)

    def _seat_users(self, claim: ClaimKey) -> None:
        for pod in self.pods.users_of(claim):
            self._seat_user((namespace_of(pod), name_of(pod)))

    def _seat_user(self, key: PodKey) -> None:
        """Count a pod with claims on its node, or on that to which its claims bind it already."""
        pod = self.pods.get(key)
        if pod is None:
            return
        node = node_name_of(pod)
        if not node and is_alive(pod):
            claims = self.claims_of(pod)[0]
            node = next((found for claim in claims if (found := node_of(claim)) is not None), "")
        self._seat(key, pod, node)

    def _seat(self, key: PodKey, pod: Json, node: str) -> None:
        seated = bool(node) and not is_terminal(pod)
        freed = self.nodes.put_pod(key, Seat.of(pod, node)) if seated else self.nodes.remove_pod(key)
        if freed:
            self.supply_version += 1

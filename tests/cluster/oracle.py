"""An independent count of what is given away of every GPU, from the raw JSON of slices and claims.

It shares no code with the driver or the controller: not the reading of quantities, not the names. It is told every
change as the API server tells it, and counts after each, so that what was too much for a moment is found as well.
"""

from __future__ import annotations

import contextlib
import threading
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from fractions import Fraction
from typing import Any, Final

from fracgpu.sim.node.api import KubeApi
from fracgpu.sim.transport import ApiRefusedError, ApiUnreachableError, WatchStream

Json = dict[str, Any]
Share = tuple[str, str, str]
"""Pool, device, and capacity by name."""

CLAIMS: Final = "/apis/resource.k8s.io/v1/resourceclaims"
SLICES: Final = "/apis/resource.k8s.io/v1/resourceslices"
_DRIVER: Final = "gpu.fracgpu.dev"
_UNITS: Final = {"Ki": 1 << 10, "Mi": 1 << 20, "Gi": 1 << 30, "Ti": 1 << 40, "k": 10**3, "M": 10**6, "G": 10**9}
_GRANTED: Final = {"memory": "memoryBytes", "cores": "cores", "slots": "slots"}


def amount(quantity: str) -> Fraction:
    """Return what a quantity of the API says."""
    for suffix, factor in _UNITS.items():
        if quantity.endswith(suffix):
            return Fraction(quantity.removesuffix(suffix)) * factor
    return Fraction(quantity)


def capacities(slices: Iterable[Json]) -> dict[Share, Fraction]:
    """Return what there is."""
    return {
        (item["spec"]["pool"]["name"], device["name"], name): amount(capacity["value"])
        for item in slices
        if item["spec"]["driver"] == _DRIVER
        for device in item["spec"]["devices"]
        for name, capacity in device["capacity"].items()
    }


def given(claims: Iterable[Json]) -> dict[Share, Fraction]:
    """Return what all claims have together."""
    total: defaultdict[Share, Fraction] = defaultdict(Fraction)
    for claim in claims:
        allocation = claim.get("status", {}).get("allocation", {}).get("devices", {})
        for result in allocation.get("results", []):
            if result["driver"] == _DRIVER and not result.get("adminAccess"):
                for name, value in _consumed(claim, allocation, result).items():
                    total[(result["pool"], result["device"], name)] += value
    return total


def excess(slices: Iterable[Json], claims: Iterable[Json]) -> list[str]:
    """Return, in words, of what more is given away than there is."""
    there = capacities(slices)
    return [
        f"{pool}/{device}: {float(used):g} of {float(there.get((pool, device, name), Fraction(0))):g} {name}"
        for (pool, device, name), used in sorted(given(claims).items())
        if used > there.get((pool, device, name), 0)
    ]


def _consumed(claim: Json, allocation: Json, result: Json) -> Mapping[str, Fraction]:
    if "consumedCapacity" in result:
        return {name: amount(value) for name, value in result["consumedCapacity"].items()}
    for entry in allocation.get("config", []):
        parameters = entry.get("opaque", {}).get("parameters", {})
        if parameters.get("kind") == "FractionGrant":
            same = [
                one
                for one in parameters["results"]
                if (one["request"], one["pool"], one["device"]) == (result["request"], result["pool"], result["device"])
            ]
            if same:
                return {name: Fraction(same[0][key]) for name, key in _GRANTED.items()}
    raise AssertionError(f"claim {claim['metadata']['name']}: nobody can tell how much {result} is")


def _is_allocated(claim: Json) -> bool:
    return "allocation" in claim.get("status", {})


class Oracle:
    """Follows all claims of a cluster, and counts after every change; a context manager.

    `found` says what was too much, `changes` is how many changes it has seen, `released` has the name of a claim for
    each time that its allocation was taken away while it stayed.
    """

    def __init__(self, api: KubeApi) -> None:
        """Use the API as anybody who may read; nothing is sent yet."""
        self._api = api
        self._slices: list[Json] = []
        self._claims: dict[str, Json] = {}
        self._stop = threading.Event()
        self._watch: WatchStream | None = None
        self._thread = threading.Thread(target=self._follow)
        self.found: list[str] = []
        self.changes = 0
        self.released: list[str] = []

    def __enter__(self) -> Oracle:
        """Read what there is, and follow it from there."""
        self._slices = self._api.get(SLICES)["items"]
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        """Look a last time; raises AssertionError if at any time more was given away than there was."""
        self._stop.set()
        if self._watch:
            self._watch.close()
        self._thread.join()
        self._count(self._api.get(CLAIMS)["items"])
        assert self.changes, "the oracle has seen no claim"
        assert not self.found, self.found

    def _follow(self) -> None:
        while not self._stop.is_set():
            with contextlib.suppress(ApiRefusedError, ApiUnreachableError):
                listed = self._api.get(CLAIMS)
                self._claims = {item["metadata"]["uid"]: item for item in listed["items"]}
                self._count(self._claims.values())
                self._watch = self._api.watch(CLAIMS, {"resourceVersion": listed["metadata"]["resourceVersion"]})
                self._read(self._watch)
            self._stop.wait(0.1)

    def _read(self, watch: WatchStream) -> None:
        if self._stop.is_set():
            watch.close()
        for kind, item in self._events(watch):
            before = self._claims.pop(item["metadata"]["uid"], {})
            if kind != "DELETED":
                self._claims[item["metadata"]["uid"]] = item
                if _is_allocated(before) and not _is_allocated(item):
                    self.released.append(item["metadata"]["name"])
            self.changes += 1
            self._count(self._claims.values())

    def _events(self, watch: WatchStream) -> Iterator[tuple[str, Json]]:
        with contextlib.closing(watch):
            for kind, item in watch:
                if kind != "BOOKMARK":
                    yield kind, item

    def _count(self, claims: Iterable[Json]) -> None:
        self.found += [line for line in excess(self._slices, claims) if line not in self.found]

"""What a pod takes of its node, as kube-scheduler and the kubelet count it.

Source: k8s.io/component-helpers/resource (PodRequests), KEP-753 (sidecars), KEP-2837 (pod-level resources), KEP-1287
(resize in place).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Final

from fracgpu.controller.objects.facts import Json, dig, items, mapping, text
from fracgpu.driver.errors import QuantityInvalid
from fracgpu.driver.quantity import parse_quantity

CPU: Final = "cpu"
_MEMORY: Final = "memory"
_HUGEPAGES: Final = "hugepages-"
_Amounts = dict[str, int]
_Getter = Callable[[Json, Json], _Amounts]


def amount_of(resource: str, value: object) -> int:
    """Return a Quantity as the whole number that is counted, rounded up: thousandths for cpu, units for all others.

    What is no Quantity counts as nothing: the API server stores none.
    """
    try:
        exact = parse_quantity(value) if isinstance(value, str | int) else 0
    except QuantityInvalid:
        return 0
    return math.ceil(exact * 1000 if resource == CPU else exact)


def amounts_of(resources: Mapping[str, object]) -> _Amounts:
    """Return a ResourceList as whole numbers: cpu in thousandths, memory and storage in bytes, others in units."""
    return {name: amount_of(name, value) for name, value in resources.items()}


def pod_requests(pod: Json) -> dict[str, int]:
    """Return what a pod counts on its node: `cpu` in thousandths, memory in bytes, all others in units.

    All containers and sidecars together, or the most that one init container needs with the sidecars before it, then
    pod-level requests in place of these, then the overhead. For a running pod, what it was given counts if it is more.
    Never raises; junk counts as nothing.
    """
    total = _containers(pod)
    for name, amount in amounts_of(mapping(pod, "spec", "resources", "requests")).items():
        if name in (CPU, _MEMORY) or name.startswith(_HUGEPAGES):
            total[name] = amount
    _add(total, amounts_of(mapping(pod, "spec", "overhead")))
    return total


def _containers(pod: Json) -> _Amounts:
    total = {} if _is_resize_infeasible(pod) else _sum(pod, {}, lambda container, _: _spec_requests(container))
    statuses = {
        text(status, "name"): status
        for status in items(pod, "status", "initContainerStatuses") + items(pod, "status", "containerStatuses")
    }
    if any("resources" in status or "allocatedResources" in status for status in statuses.values()):
        _raise_to(total, _sum(pod, statuses, _allocated))
        _raise_to(total, _sum(pod, statuses, _actuated))
    return total


def _sum(pod: Json, statuses: Mapping[str, Json], requests_of: _Getter) -> _Amounts:
    total: _Amounts = {}
    sidecars: _Amounts = {}
    most: _Amounts = {}
    for container in items(pod, "spec", "containers"):
        _add(total, requests_of(container, statuses.get(text(container, "name"), {})))
    for container in items(pod, "spec", "initContainers"):
        wanted = dict(requests_of(container, statuses.get(text(container, "name"), {})))
        if container.get("restartPolicy") == "Always":
            _add(total, wanted)
            _add(sidecars, wanted)
        else:
            # While it runs, the sidecars that started before it run too.
            _add(wanted, sidecars)
            _raise_to(most, wanted)
    _raise_to(total, most)
    return total


def _spec_requests(container: Json) -> _Amounts:
    # Stored pods have these defaults already; manifests that no server has seen do not.
    limits = mapping(container, "resources", "limits")
    return amounts_of(limits | mapping(container, "resources", "requests"))


def _allocated(container: Json, status: Json) -> _Amounts:
    given = dig(status, "allocatedResources")
    return amounts_of(given) if isinstance(given, dict) else _spec_requests(container)


def _actuated(container: Json, status: Json) -> _Amounts:
    given = dig(status, "resources", "requests")
    return amounts_of(given) if isinstance(given, dict) else _allocated(container, status)


def _is_resize_infeasible(pod: Json) -> bool:
    conditions = items(pod, "status", "conditions")
    return any(item.get("type") == "PodResizePending" and item.get("reason") == "Infeasible" for item in conditions)


def _add(total: _Amounts, more: Mapping[str, int]) -> None:
    for name, amount in more.items():
        total[name] = total.get(name, 0) + amount


def _raise_to(total: _Amounts, least: Mapping[str, int]) -> None:
    for name, amount in least.items():
        total[name] = max(total.get(name, 0), amount)

"""Waiting: for what no watch tells, such as files on the node, processes, metrics; and for the end of objects."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Final, TypeVar

from fracgpu.driver.names import FINALIZER
from fracgpu.sim.node.api import Json
from tests.cluster.client import ClusterClient

T = TypeVar("T")

_LOOK_S: Final = 0.1


def eventually(look: Callable[[], T], *, what: str, deadline_s: float = 120.0) -> T:
    """Call `look` until it returns something true, and return that.

    Raises:
        AssertionError: it did not within the deadline; the text has `what` and the last thing seen.

    """
    end = time.monotonic() + deadline_s
    while not (seen := look()):
        assert time.monotonic() < end, f"{what}: not within {deadline_s:g} s, last seen {seen!r}"
        time.sleep(_LOOK_S)
    return seen


def eventually_equal(look: Callable[[], T], expected: T, *, deadline_s: float = 120.0) -> None:
    """Call `look` until it returns what is expected; raises AssertionError with both."""
    end = time.monotonic() + deadline_s
    while (seen := look()) != expected:
        assert time.monotonic() < end, f"not within {deadline_s:g} s: {seen!r} is not {expected!r}"
        time.sleep(_LOOK_S)


def wait_gone(client: ClusterClient, collection: str, name: str) -> None:
    """Wait until the collection at a path of the API has no object of that name; raises LabTimeout."""
    client.wait_for(collection, lambda found: True if name not in found else None, what=f"end of {collection}/{name}")


def is_released(claim: Json) -> bool:
    """Return whether a claim is free: kube-controller-manager writes the status first, then removes its finalizer."""
    return "allocation" not in claim.get("status", {}) and FINALIZER not in claim["metadata"].get("finalizers", [])


def pods_of(namespace: str) -> str:
    """Return the path of the pods of a namespace."""
    return f"/api/v1/namespaces/{namespace}/pods"


def await_retried(client: ClusterClient, name: str, namespace: str) -> None:
    """Wait until a pod runs whose Prepare has failed.

    The kubelet tries that again after 60 to 90 s by itself (test_plugin_absent.py shows it), and at once when the pod
    changes, so it is changed.
    """

    def runs() -> bool:
        client.kubectl.output("annotate", "pod", name, "--namespace", namespace, "--overwrite", f"at={time.time()}")
        return bool(client.pod(name, namespace)["status"]["phase"] == "Running")

    eventually(runs, what=f"start of pod {namespace}/{name}")

"""Wait for an object of the API to become what is expected: by watch, under a deadline, with a useful complaint."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import TypeVar

from fracgpu.sim.lab.errors import LabTimeout
from fracgpu.sim.node.api import Json, KubeApi

T = TypeVar("T")


def wait_for_collection(
    api: KubeApi, path: str, until: Callable[[dict[str, Json]], T | None], *, deadline_s: float, what: str
) -> T:
    """Follow the collection at ``path`` until ``until`` (given the objects by name) returns something; return that.

    Raises:
        LabTimeout: ``deadline_s`` passed; ``what`` names the expectation.

    """
    end = time.monotonic() + deadline_s
    objects: dict[str, Json] = {}
    while (left := end - time.monotonic()) > 0:
        listed = api.get(path)
        objects = {item["metadata"]["name"]: item for item in listed["items"]}
        if (result := until(objects)) is not None:
            return result
        watch = api.watch(path, {"resourceVersion": listed["metadata"]["resourceVersion"]})
        timer = threading.Timer(left, watch.close)
        timer.start()
        try:
            for kind, item in watch:
                if kind == "BOOKMARK":
                    continue
                objects.pop(item["metadata"]["name"], None)
                if kind != "DELETED":
                    objects[item["metadata"]["name"]] = item
                if (result := until(objects)) is not None:
                    return result
        finally:
            timer.cancel()
            watch.close()
    raise LabTimeout(
        what, f"did not happen within {deadline_s:g} s", remedy="see events and logs; the lab prints them with -v"
    )

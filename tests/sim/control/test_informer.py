"""A write's answer and the watch's news of the same object may come in any order."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

from fracgpu.sim.api import resources as r
from fracgpu.sim.control.client import ApiClient
from fracgpu.sim.control.informer import Informer


def test_an_object_that_the_watch_saw_go_is_not_brought_back_by_a_late_answer(start: Any) -> None:
    world = start(control_plane=False)
    news = threading.Event()
    informer = Informer(ApiClient(world.server.url), r.DEVICE_CLASSES, news.set)

    def until(holds: Callable[[], object]) -> None:
        while not holds():
            assert news.wait(20), "nothing changes any more"
            news.clear()

    informer.start()
    try:
        assert informer.wait_synced(10)
        late = world.client.create(r.DEVICE_CLASSES, "", {"metadata": {"name": "short"}})
        until(lambda: informer.get("", "short"))
        world.client.delete(r.DEVICE_CLASSES, late)
        until(lambda: informer.get("", "short") is None)
        # The revision that the watch has reached is known right after the object has gone from the copy.
        second = world.client.create(r.DEVICE_CLASSES, "", {"metadata": {"name": "second"}})
        until(lambda: informer.get("", "second"))
        informer.observe(late)
        assert informer.get("", "short") is None
        assert informer.get("", "second") == second
    finally:
        informer.stop()

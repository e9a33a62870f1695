"""A controller: a thread that brings the cluster nearer to what it should be whenever something changed."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterable

from fracgpu.driver.errors import FracgpuError
from fracgpu.sim.api.objects import JsonObject
from fracgpu.sim.control.cluster import Cluster
from fracgpu.sim.transport import ApiRefusedError

_LOG = logging.getLogger(__name__)
_CONFLICT_SECONDS = 0.05
_FAILURE_SECONDS = 1.0


class Controller:
    """Runs `reconcile` after changes, one at a time; changes during a run lead to exactly one more.

    A run that fails is repeated after a pause, or as soon as something changes. Subclasses implement `reconcile` and
    make it safe to be cut off anywhere.
    """

    name = "controller"

    def __init__(self, cluster: Cluster) -> None:
        self.cluster = cluster
        self._dirty = threading.Event()
        self._dirty.set()
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name=self.name, daemon=True)
        cluster.subscribe(self._dirty.set)

    def reconcile(self) -> None:
        """Do one round over everything."""
        raise NotImplementedError

    def each(self, objects: Iterable[JsonObject], act: Callable[[JsonObject], object]) -> None:
        """Act on every object, on the others too when one of them fails. Raises the first ApiRefusedError then."""
        failure: ApiRefusedError | None = None
        for obj in objects:
            try:
                act(obj)
            except ApiRefusedError as error:
                failure = failure or error
        if failure is not None:
            raise failure

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def stop(self) -> None:
        """Stop and join the thread."""
        self._stopping.set()
        self._dirty.set()
        if self._thread.is_alive():
            self._thread.join()

    def _run(self) -> None:
        pause: float | None = None
        while not self._stopping.is_set():
            self._dirty.wait(pause)
            self._dirty.clear()
            if self._stopping.is_set():
                return
            pause = self._attempt()

    def _attempt(self) -> float | None:
        try:
            self.reconcile()
        except ApiRefusedError as error:
            if error.code in (404, 409):
                # Our copy was behind; the news that makes it current may be here already.
                _LOG.debug("%s: %s", self.name, error)
                return _CONFLICT_SECONDS
            _LOG.warning("%s: %s", self.name, error)
            return _FAILURE_SECONDS
        except FracgpuError as error:
            if not self._stopping.is_set():
                _LOG.warning("%s: %s", self.name, error)
            return _FAILURE_SECONDS
        except Exception:
            _LOG.exception("%s: unexpected failure", self.name)
            return _FAILURE_SECONDS
        return None

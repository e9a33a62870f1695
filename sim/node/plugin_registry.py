"""The kubelet's plugin watcher: every socket in the registry directory may be a DRA plugin that wants to be used.

Whatever its name and in whichever directory below, unless the name or the directory's begins with a dot. A socket whose
dialogue failed is tried again after 0.5, 1, 2, ... 122 s, which are counted by path: who comes anew at the same path
waits for the rest of it.

A driver may have several instances, as in a rolling update. The newest registered one is used, of those that are
connected if there are any. A driver without a connected instance is unusable, and its slices are wiped if that lasts.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from fracgpu.sim.node.device_health import DeviceHealthCache
from fracgpu.sim.node.errors import RegistrationFailed
from fracgpu.sim.node.plugin_connection import PluginConnection
from fracgpu.sim.node.registration import RegisteredPlugin, register
from fracgpu.sim.node.timings import backoff

_LOG = logging.getLogger(__name__)
_SCAN_S = 0.1
_RETRY_S = (0.5, 122.0)
# What the kubelet waits before it opens a health stream again.
_HEALTH_RETRY_S = 5.0


class PluginRegistry:
    """Watches the registry directory from a thread of its own and knows the plugins by driver name.

    Sockets are identified by inode: a plugin that was restarted registers again. ``on_usable`` is called with the
    driver's name when its first instance is connected, ``on_unusable`` when it has none that is, also right after the
    first registration.
    """

    def __init__(
        self,
        directory: Path,
        *,
        on_usable: Callable[[str], None] = lambda _: None,
        on_unusable: Callable[[str], None] = lambda _: None,
        health: DeviceHealthCache | None = None,
        health_retry_s: float = _HEALTH_RETRY_S,
        registration_retry_s: tuple[float, float] = _RETRY_S,
    ) -> None:
        self._directory = directory
        self._on_usable = on_usable
        self._on_unusable = on_unusable
        self._health = health or DeviceHealthCache()
        self._health_retry_s = health_retry_s
        # In order of registration.
        self._known: dict[tuple[Path, int], PluginConnection] = {}
        self._usable: dict[str, bool] = {}
        self._registration_retry_s = registration_retry_s
        self._delays: dict[Path, Iterator[float]] = {}
        self._retry_at: dict[Path, float] = {}
        self._changed = threading.Condition()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="plugin-watcher", daemon=True)

    def start(self) -> None:
        """Create the directory if need be and start to watch it."""
        self._directory.mkdir(parents=True, exist_ok=True)
        self._thread.start()

    def stop(self) -> None:
        """Stop watching, drop all connections and wait for the thread."""
        self._stop.set()
        self._thread.join()
        with self._changed:
            connections = list(self._known.values())
            self._known.clear()
        for connection in connections:
            connection.close()

    def get(self, driver: str) -> RegisteredPlugin | None:
        """Return the plugin of ``driver`` to use."""
        with self._changed:
            return self._preferred(driver)

    def instances(self, driver: str) -> list[str]:
        """Return the endpoints of all registered instances of ``driver``, oldest registration first."""
        with self._changed:
            return [one.plugin.endpoint for one in self._of(driver)]

    def wait_for(self, driver: str, timeout_s: float) -> bool:
        """Wait until ``driver`` is registered; tell whether it is."""
        with self._changed:
            return self._changed.wait_for(lambda: self._preferred(driver) is not None, timeout_s)

    def _of(self, driver: str) -> list[PluginConnection]:
        return [connection for connection in self._known.values() if connection.plugin.driver == driver]

    def _preferred(self, driver: str) -> RegisteredPlugin | None:
        found = self._of(driver)
        connected = [connection for connection in found if connection.connected]
        return (connected or found)[-1].plugin if found else None

    def _run(self) -> None:
        while not self._stop.is_set():
            self._scan()
            self._stop.wait(_SCAN_S)

    def _scan(self) -> None:
        present = self._sockets()
        # First those that went: a socket that was replaced is another instance with, maybe, the same endpoint.
        for identity in [identity for identity in self._known if identity not in present]:
            with self._changed:
                connection = self._known.pop(identity)
            connection.close()
            _LOG.info("plugin gone driver=%s endpoint=%s", connection.plugin.driver, connection.plugin.endpoint)
            self._sync(connection.plugin.driver)
        for identity, path in present.items():
            if identity not in self._known and self._retry_at.get(path, 0.0) <= time.monotonic():
                self._add(identity, path)

    def _sockets(self) -> dict[tuple[Path, int], Path]:
        found: dict[tuple[Path, int], Path] = {}
        for directory, below, names in os.walk(self._directory):
            below[:] = [name for name in below if not name.startswith(".")]
            for path in (Path(directory, name) for name in sorted(names) if not name.startswith(".")):
                try:
                    if path.is_socket():
                        found[path, path.stat().st_ino] = path
                except FileNotFoundError:
                    continue
        return found

    def _add(self, identity: tuple[Path, int], path: Path) -> None:
        try:
            in_use = {(one.plugin.driver, one.plugin.endpoint) for one in self._known.values()}
            plugin = register(path, in_use=in_use)
        except RegistrationFailed as error:
            _LOG.warning("plugin not registered: %s", error)
            delays = self._delays.setdefault(path, backoff(self._registration_retry_s))
            self._retry_at[path] = time.monotonic() + next(delays)
            return
        self._delays.pop(path, None)
        connection = PluginConnection(
            plugin,
            health=self._health,
            health_retry_s=self._health_retry_s,
            on_change=lambda: self._sync(plugin.driver),
        )
        with self._changed:
            self._known[identity] = connection
            self._changed.notify_all()
        _LOG.info("plugin registered driver=%s service=%s", plugin.driver, plugin.service)
        self._sync(plugin.driver)

    def _sync(self, driver: str) -> None:
        """Tell when a driver became usable or unusable."""
        with self._changed:
            usable = any(connection.connected for connection in self._of(driver))
            changed = self._usable.get(driver) is not usable
            self._usable[driver] = usable
            self._changed.notify_all()
            # Told under the lock, so that two changes are told in their order.
            if changed:
                (self._on_usable if usable else self._on_unusable)(driver)

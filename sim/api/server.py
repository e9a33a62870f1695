"""The API server as a context manager: a thread with its own event loop, on the loopback interface only."""

from __future__ import annotations

import asyncio
import json
import socket
import threading
from pathlib import Path
from types import TracebackType

from aiohttp import web

from fracgpu.driver.errors import FracgpuError
from fracgpu.sim.api.access import Access
from fracgpu.sim.api.collector import collect_forever
from fracgpu.sim.api.http import HttpApi
from fracgpu.sim.api.registry import Registry
from fracgpu.sim.api.resources import NAMESPACES
from fracgpu.sim.api.store import Store
from fracgpu.sim.api.streaming import WatchStreams

_LOOPBACK = ("127.0.0.1", "::1", "localhost")
_NAMESPACES = ("default", "kube-system", "kube-public", "kube-node-lease")


class ServerStartError(FracgpuError):
    """The emulator cannot listen where it should."""


class ApiServer:
    """Emulated kube-apiserver 1.36.

    `port` 0 takes a free one. `consumable_capacity` is the gate DRAConsumableCapacity. `history` is the number of
    changes kept for watches. `access` knows bearer tokens and what their users may do; whoever sends none may do
    everything. Raises ServerStartError.
    """

    def __init__(
        self,
        host: str = "127.0.0.1",
        port: int = 0,
        consumable_capacity: bool = True,
        *,
        history: int = 10_000,
        access: Access | None = None,
    ) -> None:
        if host not in _LOOPBACK:
            remedy = f"use one of {', '.join(_LOOPBACK)}"
            raise ServerStartError(
                f"API emulator on {host}", "is not a loopback address, and nobody needs a token", remedy=remedy
            )
        self.registry = Registry(Store(history=history), consumable_capacity=consumable_capacity)
        self.access = access or Access()
        self.access.objects = self.registry.store.scan
        self._host, self._port = host, port
        self._streams = WatchStreams(self.registry.store)
        self._ready = threading.Event()
        self._failure: BaseException | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._stop: asyncio.Event | None = None
        self._thread = threading.Thread(target=self._run, name="fracgpu-api", daemon=True)
        for name in _NAMESPACES:
            self.registry.create(NAMESPACES, "", {"metadata": {"name": name}})

    @property
    def url(self) -> str:
        """Return the base URL. Valid after start."""
        host = f"[{self._host}]" if ":" in self._host else self._host
        return f"http://{host}:{self._port}"

    def write_kubeconfig(self, path: str | Path, *, token_file: Path | None = None) -> Path:
        """Write a kubeconfig for this server and return its path; with the token in a file, or as administrator."""
        target = Path(path)
        user = {"tokenFile": str(token_file)} if token_file else {}
        document = {
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [{"name": "fracgpu-lab", "cluster": {"server": self.url}}],
            "users": [{"name": "fracgpu-lab", "user": user}],
            "contexts": [{"name": "fracgpu-lab", "context": {"cluster": "fracgpu-lab", "user": "fracgpu-lab"}}],
            "current-context": "fracgpu-lab",
        }
        target.write_text(json.dumps(document, indent=2) + "\n")
        return target

    def start(self) -> None:
        """Listen and serve. Raises ServerStartError."""
        self._thread.start()
        self._ready.wait()
        if self._failure is not None:
            self._thread.join()
            remedy = "choose a free port, or port 0"
            raise ServerStartError(f"API emulator on {self.url}", str(self._failure), remedy=remedy)

    def stop(self) -> None:
        """End all streams and connections and join the thread. May be called again."""
        if self._loop is not None and self._stop is not None and self._thread.is_alive():
            self._loop.call_soon_threadsafe(self._stop.set)
            self._thread.join()

    def __enter__(self) -> ApiServer:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def _run(self) -> None:
        try:
            asyncio.run(self._serve())
        except Exception as error:
            # Whatever it is, whoever waits in `start` must hear of it.
            self._failure = error
        finally:
            self._ready.set()

    def _listen(self) -> socket.socket:
        family = socket.AF_INET6 if ":" in self._host else socket.AF_INET
        listener = socket.create_server((self._host, self._port), family=family, backlog=128)
        self._port = int(listener.getsockname()[1])
        return listener

    async def _serve(self) -> None:
        listener = self._listen()
        self._loop, self._stop = asyncio.get_running_loop(), asyncio.Event()
        app = HttpApi(self.registry, self._streams, self.access).application()
        runner = web.AppRunner(
            app, handle_signals=False, access_log=None, handler_cancellation=True, shutdown_timeout=1
        )
        await runner.setup()
        collector: asyncio.Task[None] | None = None
        try:
            await web.SockSite(runner, listener).start()
            self._streams.open()
            collector = asyncio.create_task(collect_forever(self.registry))
            self._ready.set()
            await self._stop.wait()
        finally:
            self._streams.close()
            if collector is not None:
                collector.cancel()
            await _stop_accepting(listener)
            await runner.cleanup()
            listener.close()


async def _stop_accepting(listener: socket.socket) -> None:
    asyncio.get_running_loop().remove_reader(listener)
    # A connection that was accepted just now registers in the next turns of the loop, and only with a server that is
    # still open; cleanup then closes it too. Otherwise it would stay open with nobody behind it.
    for _ in range(3):
        await asyncio.sleep(0)

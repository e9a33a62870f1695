"""Chunked watch responses on the server's event loop."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable, Mapping

from aiohttp import web

from fracgpu.sim.api.errors import ApiError, bad_request, expired
from fracgpu.sim.api.objects import JsonObject
from fracgpu.sim.api.rawjson import dumps
from fracgpu.sim.api.requests import is_true, number
from fracgpu.sim.api.store import Store
from fracgpu.sim.api.watchhub import HistoryExpiredError
from fracgpu.sim.api.watching import Filter, Watch

_DEFAULT_TIMEOUT = 1800
_BOOKMARK_SECONDS = 30.0


class _Sender:
    """Writes events of one watch as lines, encoded as its client asked."""

    def __init__(self, response: web.StreamResponse, *, verbatim: bool, bookmarks: bool) -> None:
        self._response = response
        self._verbatim = verbatim
        self._bookmarks = bookmarks

    async def events(self, events: list[JsonObject]) -> None:
        if events:
            lines = [dumps(event, verbatim=self._verbatim) + b"\n" for event in events]
            await self._response.write(b"".join(lines))

    async def bookmark(self, watch: Watch) -> None:
        if self._bookmarks:
            await self.events([watch.bookmark()])


class WatchStreams:
    """Serves watches until their timeout, the client's end or `close`. Lives on one event loop."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._wakers: set[asyncio.Event] = set()
        self._closing = False
        self._loop: asyncio.AbstractEventLoop | None = None
        self._unsubscribe: Callable[[], None] | None = None

    def open(self) -> None:
        """Attach to the running loop and to the store."""
        self._loop = asyncio.get_running_loop()
        self._unsubscribe = self._store.hub.subscribe(self._changed)

    def close(self) -> None:
        """End all streams."""
        if self._unsubscribe is not None:
            self._unsubscribe()
        self._closing = True
        self._wake()

    async def serve(self, request: web.Request, which: Filter, *, verbatim: bool) -> web.StreamResponse:
        """Answer a watch request."""
        revision = self._start_revision(request.query)
        deadline = time.monotonic() + (number(request.query, "timeoutSeconds", 0) or _DEFAULT_TIMEOUT)
        response = web.StreamResponse(headers={"Content-Type": "application/json"})
        response.enable_chunked_encoding()
        await response.prepare(request)
        waker = asyncio.Event()
        self._wakers.add(waker)
        try:
            send = _Sender(response, verbatim=verbatim, bookmarks=is_true(request.query, "allowWatchBookmarks"))
            await self._pump(send, Watch(self._store, which, revision), waker, deadline=deadline)
            await response.write_eof()
        except ConnectionError:
            # The client went away in the middle of a write: there is nobody left to tell.
            return response
        finally:
            self._wakers.discard(waker)
        return response

    def _start_revision(self, query: Mapping[str, str]) -> int | None:
        text = query.get("resourceVersion", "")
        if text in ("", "0"):
            return None
        if not text.isdigit():
            raise bad_request(f"invalid resource version {text!r}: not a number")
        if int(text) > self._store.revision:
            raise ApiError(504, "Timeout", f"Too large resource version: {text}, current: {self._store.revision}")
        return int(text)

    async def _pump(self, send: _Sender, watch: Watch, waker: asyncio.Event, *, deadline: float) -> None:
        bookmark_at = time.monotonic() + _BOOKMARK_SECONDS
        while not self._closing:
            waker.clear()
            try:
                events = watch.next()
            except HistoryExpiredError as error:
                await send.events([{"type": "ERROR", "object": expired(str(error)).body}])
                return
            await send.events(events)
            now = time.monotonic()
            left = min(deadline, bookmark_at) - now
            if left > 0:
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(waker.wait(), left)
                continue
            # Due whatever happens to other resources: a client that hears nothing takes the connection for dead.
            await send.bookmark(watch)
            bookmark_at = now + _BOOKMARK_SECONDS
            if now >= deadline:
                return

    def _changed(self) -> None:
        if self._loop is not None:
            with contextlib.suppress(RuntimeError):
                # A writer of another thread may outlive the loop; then no stream is left to wake.
                self._loop.call_soon_threadsafe(self._wake)

    def _wake(self) -> None:
        for waker in self._wakers:
            waker.set()

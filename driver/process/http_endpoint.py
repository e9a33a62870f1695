"""A process's one HTTP port: /metrics for Prometheus, /healthz and /readyz for the kubelet's probes.

Plain HTTP without authentication, as every exporter on a node has it; it only reads, and what it shows names claims but
holds no secret. Requests are few and small, so a thread each will do, but not more threads than a process can spare:
every open connection is a file descriptor that its real work may need. When there are too many, the oldest has to go:
if the newest had to, any pod could hold all of them and so keep the kubelet's probe out, and get the process killed.
"""

import errno
import json
import logging
import socket
import socketserver
import threading
from collections.abc import Iterable, Mapping
from contextlib import suppress
from types import TracebackType
from typing import Any, Final, Self
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer
from wsgiref.types import StartResponse, WSGIApplication, WSGIEnvironment

from prometheus_client import CollectorRegistry, make_wsgi_app

from fracgpu.driver.errors import OptionInvalid
from fracgpu.driver.process.liveness import Check

_LOG: Final = logging.getLogger(__name__)
# Prometheus and two probes; the rest is for people with curl.
_MOST_CONNECTIONS: Final = 32
# For each read and write of a connection, so that a client that stops half-way gives its thread back.
_IO_TIMEOUT_SECONDS: Final = 10.0
# How long closing may take to be noticed.
_POLL_SECONDS: Final = 0.5
_JSON: Final = [("Content-Type", "application/json"), ("Cache-Control", "no-store")]
_PLAIN: Final = [("Content-Type", "text/plain; charset=utf-8")]


class HttpEndpoint:
    """Serves one port from start to close; a context manager.

    `registry` is what /metrics shows. `alive` and `ready` are the checks of /healthz and /readyz by name. Each answers
    with JSON, `{"status": "ok" | "failed", "checks": {name: "ok" | what is wrong}}`, and 200 or 503.
    """

    def __init__(
        self,
        address: str,
        port: int,
        *,
        registry: CollectorRegistry,
        alive: Mapping[str, Check],
        ready: Mapping[str, Check],
    ) -> None:
        """Listen on `address` (IPv4 or IPv6) and `port`, 0 for any; raises OptionInvalid, naming the flag."""
        application = _application(make_wsgi_app(registry), {"/healthz": alive, "/readyz": ready})
        try:
            self._server = _Server(address, port, application)
        except OSError as error:
            # A port is taken more often than an address is wrong.
            wrong_address = isinstance(error, socket.gaierror) or error.errno == errno.EADDRNOTAVAIL
            flag = "--http-address" if wrong_address else "--http-port"
            what = f"can not listen on {address} port {port}: {error.strerror}"
            remedy = "give an address of this node" if wrong_address else "give a free port, or 0 for any"
            raise OptionInvalid(flag, what, remedy=remedy) from error
        self.port: int = self._server.server_address[1]
        self._thread = threading.Thread(
            target=self._server.serve_forever, args=(_POLL_SECONDS,), name="http", daemon=True
        )

    def start(self) -> None:
        """Answer requests from now on."""
        self._thread.start()
        _LOG.info("metrics and health served", extra={"port": self.port})

    def close(self) -> None:
        """Stop listening and free the port. Requests that are being answered end by themselves."""
        if self._thread.is_alive():
            self._server.shutdown()
            self._thread.join()
        self._server.server_close()

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _application(metrics: WSGIApplication, health: Mapping[str, Mapping[str, Check]]) -> WSGIApplication:
    def answer(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        path = environ.get("PATH_INFO", "")
        if path == "/metrics":
            return metrics(environ, start_response)
        if path not in health:
            return _text(start_response, "404 Not Found", "there are /metrics, /healthz and /readyz\n")
        if environ["REQUEST_METHOD"] not in ("GET", "HEAD"):
            return _text(start_response, "405 Method Not Allowed", "use GET\n", ("Allow", "GET, HEAD"))
        return _health(start_response, health[path])

    return answer


def _health(start_response: StartResponse, checks: Mapping[str, Check]) -> Iterable[bytes]:
    # A copy: loops may be added while we look.
    found = {name: check() for name, check in dict(checks).items()}
    failed = any(found.values())
    body = {"status": "failed" if failed else "ok", "checks": {name: text or "ok" for name, text in found.items()}}
    start_response("503 Service Unavailable" if failed else "200 OK", list(_JSON))
    return [json.dumps(body).encode() + b"\n"]


def _text(start_response: StartResponse, status: str, text: str, *headers: tuple[str, str]) -> Iterable[bytes]:
    start_response(status, [*_PLAIN, *headers])
    return [text.encode()]


class _Server(socketserver.ThreadingMixIn, WSGIServer):
    daemon_threads = True
    request_queue_size = _MOST_CONNECTIONS

    def __init__(self, address: str, port: int, application: WSGIApplication) -> None:
        self.address_family = socket.AF_INET6 if ":" in address else socket.AF_INET
        self._open: dict[Any, None] = {}
        self._open_lock = threading.Lock()
        super().__init__((address, port), _Handler)
        self.set_app(application)

    def server_bind(self) -> None:
        """Bind without asking the DNS for this machine's name, which can take as long as its time limit."""
        socketserver.TCPServer.server_bind(self)
        self.server_name, self.server_port = str(self.server_address[0]), int(self.server_address[1])
        self.setup_environ()

    def process_request(self, request: Any, client_address: Any) -> None:
        """Answer in a thread of its own; hang up on the oldest if there are too many."""
        with self._open_lock:
            self._open[request] = None
            if len(self._open) > _MOST_CONNECTIONS:
                oldest = next(iter(self._open))
                del self._open[oldest]
                # Its thread reads the end, and closes it.
                with suppress(OSError):
                    oldest.shutdown(socket.SHUT_RDWR)
        try:
            super().process_request(request, client_address)
        except BaseException:
            self._forget(request)
            raise

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        """Answer, and make room for another."""
        try:
            super().process_request_thread(request, client_address)
        finally:
            self._forget(request)

    def _forget(self, request: Any) -> None:
        with self._open_lock:
            self._open.pop(request, None)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Take note of a client that went away or was too slow; stderr is for our own lines."""
        del request
        _LOG.debug("http request failed", extra={"client": client_address[0]}, exc_info=True)


class _Handler(WSGIRequestHandler):
    timeout = _IO_TIMEOUT_SECONDS

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 (the name is the base class's)
        """Log requests for whoever asks for that much."""
        _LOG.debug("http request", extra={"client": self.client_address[0], "request": format % args})

"""An HTTP proxy between a client and an object store that does what networks do: answers get lost, late or cut off."""

from __future__ import annotations

import http.client
import re
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import urlsplit

import pytest
from object_servers import ObjectServer

from npy2tfrecord.storage import objects

PASS, RESET, CUT, LOST, BUSY, CONFLICT, STALL = "pass", "reset", "cut", "lost", "busy", "conflict", "stall"
"""What becomes of a request: it passes; the connection is reset before the store is asked, in the middle of its answer,
or instead of its answer (so that whatever it did is done); 503; 409; no answer ever."""

DENIED = "denied"  # 403

_STATUS = {DENIED: (403, "AccessDenied"), BUSY: (503, "SlowDown"), CONFLICT: (409, "OperationAborted")}


@dataclass
class Request:
    """A request that the proxy got, and what became of it."""

    number: int
    method: str
    path: str
    range: str | None
    fault: str = PASS


@dataclass
class FaultProxy:
    """A running proxy; `fault(request)` says what becomes of each request, and may be replaced at any time."""

    server: ObjectServer  # as reached through it
    fault: Callable[[Request], str] = lambda _: PASS
    delay: float = 0.0  # seconds before each answer
    without: str = ""  # a header that is not passed on; only to a server that checks no signatures
    requests: list[Request] = field(default_factory=list)
    lock: threading.Lock = field(default_factory=threading.Lock)
    ended: threading.Event = field(default_factory=threading.Event)

    def take(self, method: str, path: str, range_: str | None) -> Request:
        """Number a request and decide about it."""
        with self.lock:
            request = Request(len(self.requests), method, path, range_)
            request.fault = self.fault(request)
            self.requests.append(request)
            return request

    def asked(self, pattern: str) -> list[Request]:
        """The requests so far whose path fits."""
        with self.lock:
            return [request for request in self.requests if re.search(pattern, request.path)]


def once(fault: str, pattern: str, times: int = 1, method: str = "") -> Callable[[Request], str]:
    """A fault for the first requests that fit, and none for all others."""
    left = times

    def decide(request: Request) -> str:
        nonlocal left
        if left and re.search(pattern, request.path) and method in ("", request.method):
            left -= 1
            return fault
        return PASS

    return decide


def _reset(connection: socket.socket) -> None:
    """Close a connection so that the other side gets an error, not an end."""
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    connection.close()


def _handler(proxy: FaultProxy, host: str) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        disable_nagle_algorithm = True  # head and body are sent one after the other

        def log_message(self, *_: object) -> None:
            """Say nothing."""

        def _pass(self) -> None:
            request = proxy.take(self.command, self.path, self.headers.get("Range"))
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            self.close_connection = request.fault != PASS
            if request.fault == STALL:
                proxy.ended.wait()
                return
            if request.fault == RESET:
                _reset(self.connection)
                return
            if proxy.delay:
                time.sleep(proxy.delay)
            if request.fault in _STATUS:
                status, code = _STATUS[request.fault]
                self._answer(status, [], f"<Error><Code>{code}</Code><Message>{code}</Message></Error>".encode())
                return
            connection = http.client.HTTPConnection(host, timeout=60)
            try:
                connection.putrequest(self.command, self.path, skip_host=True, skip_accept_encoding=True)
                for name, value in self.headers.items():
                    if name.lower() != proxy.without:
                        connection.putheader(name, value)
                connection.endheaders(body)
                found = connection.getresponse()
                data = found.read()
            finally:
                connection.close()
            if request.fault == LOST:
                _reset(self.connection)
                return
            cut = len(data) // 2 if request.fault == CUT else None
            self._answer(found.status, found.getheaders(), data, cut)
            if request.fault == CUT:
                self.wfile.flush()
                _reset(self.connection)

        do_GET = do_HEAD = do_PUT = do_POST = do_DELETE = _pass

        def _answer(self, status: int, headers: list[tuple[str, str]], data: bytes, cut: int | None = None) -> None:
            self.send_response_only(status)
            names = {name.lower() for name, _ in headers}
            for name, value in headers:
                if name.lower() not in ("transfer-encoding", "connection"):
                    self.send_header(name, value)
            if "content-length" not in names:
                self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data if cut is None else data[:cut])

    return Handler


class _Server(ThreadingHTTPServer):
    request_queue_size = 128

    def handle_error(self, *_: object) -> None:
        """A client that left is no news."""


@contextmanager
def proxied(server: ObjectServer) -> Iterator[FaultProxy]:
    """A proxy in front of a server, in threads of this process."""
    proxy = FaultProxy(server)
    listener = _Server(("127.0.0.1", 0), _handler(proxy, urlsplit(server.endpoint).netloc))
    proxy.server = server.behind(f"http://127.0.0.1:{listener.server_port}")
    thread = threading.Thread(target=listener.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield proxy
    finally:
        proxy.ended.set()
        listener.shutdown()
        listener.server_close()
        thread.join()


@pytest.fixture
def faulty(seaweed: ObjectServer, monkeypatch: pytest.MonkeyPatch) -> Iterator[FaultProxy]:
    """SeaweedFS behind a proxy, and a client that does not wait long before it asks again."""
    monkeypatch.setattr(objects, "_FIRST_PAUSE_SECONDS", 0.01)
    with proxied(seaweed) as proxy:
        proxy.server.use(monkeypatch)
        yield proxy

"""A proxy between a worker and InfluxDB that answers as a test wishes."""

from __future__ import annotations

import gzip
import http.client
import json
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Self
from urllib.parse import urlsplit

HOST = "127.0.0.1"


@dataclass(frozen=True)
class Request:
    """What a client asked."""

    method: str
    path: str
    body: bytes
    """Decompressed."""

    @property
    def writes(self) -> bool:
        """Whether it writes points, and not only the empty line by which a store is checked."""
        return self.path.startswith("/api/v2/write") and bool(self.body.strip())


@dataclass(frozen=True)
class Answer:
    """An answer of the proxy's own: InfluxDB does not hear of the request."""

    status: int
    message: str = "made by a test"
    headers: Mapping[str, str] = field(default_factory=dict)


class Silent:
    """No answer, for as long as the client waits.

    Args:
        forward: whether InfluxDB is given the request all the same.
        then: called once it has answered.
    """

    def __init__(self, *, forward: bool = False, then: Callable[[], None] = lambda: None) -> None:
        self.forward = forward
        self.then = then


Rule = Callable[[Request], Request | Answer | Silent]
"""What becomes of a request: passed on, perhaps changed; answered; or not answered."""


def passes(request: Request) -> Request:
    """The rule of a proxy that does nothing."""
    return request


class StoreProxy:
    """Listens on 127.0.0.1 from the start of the block to its end.

    Args:
        url: of InfluxDB.
    """

    def __init__(self, url: str) -> None:
        self._target = urlsplit(url).netloc
        self._port = 0
        self._server: ThreadingHTTPServer | None = None
        self._thread: threading.Thread | None = None
        self._changed = threading.Condition()
        self._over = threading.Event()
        self.rule: Rule = passes
        self.seen: list[tuple[float, Request]] = []
        """Requests that write points, and when (monotonic) they came."""

    def __enter__(self) -> Self:
        self.listen()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._over.set()
        self.refuse()

    @property
    def url(self) -> str:
        """For the worker's settings."""
        return f"http://{HOST}:{self._port}"

    def listen(self) -> None:
        """Accept connections, on the same port as before."""
        proxy = self

        class Handler(BaseHTTPRequestHandler):
            def handle_one(self) -> None:
                proxy.handle(self)

            do_GET = do_POST = do_DELETE = handle_one  # noqa: N815 (the server's names)

            def log_message(self, format: str, *args: object) -> None:  # noqa: A002
                """Tests have logs enough."""

        self._server = ThreadingHTTPServer((HOST, self._port), Handler)
        self._server.daemon_threads = True
        self._port = self._server.server_address[1]
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True)
        self._thread.start()

    def refuse(self) -> None:
        """Refuse connections from now on."""
        server, thread, self._server, self._thread = self._server, self._thread, None, None
        if server is not None and thread is not None:
            server.shutdown()
            thread.join()
            server.socket.close()

    def wait(self, number: int, timeout: float = 120.0) -> None:
        """Wait until so many requests that write points have come in all."""
        with self._changed:
            assert self._changed.wait_for(lambda: len(self.seen) >= number, timeout), (
                f"{len(self.seen)} of {number} writes after {timeout} s"
            )

    def handle(self, client: BaseHTTPRequestHandler) -> None:
        """Do with one request as the rule says."""
        body = client.rfile.read(int(client.headers.get("Content-Length") or 0))
        if client.headers.get("Content-Encoding") == "gzip":
            body = gzip.decompress(body)
        request = Request(client.command, client.path, body)
        if request.writes:
            with self._changed:
                self.seen.append((time.monotonic(), request))
                self._changed.notify_all()
        decided = self.rule(request)
        if isinstance(decided, Answer):
            content = json.dumps({"code": "test", "message": decided.message}).encode()
            reply(client, decided.status, {"Content-Type": "application/json", **decided.headers}, content)
            return
        if isinstance(decided, Silent):
            if decided.forward:
                self._forward(client, request)
                decided.then()
            self._over.wait()
            return
        status, headers, content = self._forward(client, decided)
        reply(client, status, headers, content)

    def _forward(self, client: BaseHTTPRequestHandler, request: Request) -> tuple[int, dict[str, str], bytes]:
        headers = {
            name: value
            for name, value in client.headers.items()
            if name.lower() in {"authorization", "content-type", "accept"}
        }
        upstream = http.client.HTTPConnection(self._target, timeout=60)
        try:
            upstream.request(request.method, request.path, request.body, headers)
            answer = upstream.getresponse()
            content = answer.read()
            kept = {
                name: value
                for name, value in answer.getheaders()
                if name.lower() in {"content-type", "retry-after"}
            }
            return answer.status, kept, content
        except OSError as error:
            return 502, {}, json.dumps({"message": str(error)}).encode()
        finally:
            upstream.close()


def reply(client: BaseHTTPRequestHandler, status: int, headers: Mapping[str, str], content: bytes) -> None:
    """Answer; a client that has gone meanwhile is no fault."""
    try:
        client.send_response(status)
        for name, value in headers.items():
            client.send_header(name, value)
        if status != 204:
            client.send_header("Content-Length", str(len(content)))
        client.end_headers()
        if status != 204:
            client.wfile.write(content)
    except OSError:
        client.close_connection = True

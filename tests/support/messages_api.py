"""A local server that speaks Anthropic's Messages API over real HTTP on 127.0.0.1, with scripted faults.

    with MessagesAPI() as api:
        api.script(error(429, retry_after=0.01), message("Hello."))
        client = anthropic.Anthropic(base_url=api.url, api_key="test")
        client.messages.create(...)          # the first attempt is refused, the second answered
        assert len(api.requests) == 2

A reply answers one HTTP request, in the order of the script. Once the script is empty, ``responder`` (any
function of a ``Request`` that returns a ``Reply``) answers, by default with a short message. The same
``message`` is sent as JSON or, where the request says ``"stream": true``, as server-sent events. Bedrock's
and Vertex AI's paths are served too, Bedrock's streams as AWS event-stream frames.

Tests never need to sleep: a reply with ``hold_after=n`` sends n events (0: nothing, not even the status
line), sets ``reply.held``, and goes on once the test sets ``reply.release`` or the server stops.

``python -m tests.support.messages_api`` serves short answers until interrupted, to try things without an API key.
"""

from __future__ import annotations

import argparse
import base64
import gzip
import json
import re
import threading
import zlib
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any, Self, cast

from .messages_replies import (
    JSON,
    Reply,
    Request,
    aws_frame,
    error,
    message,
    raw,
    sse_events,
    thinking,
    tool_use,
    usage,
)

__all__ = [
    "JSON",
    "MessagesAPI",
    "Reply",
    "Request",
    "error",
    "message",
    "raw",
    "thinking",
    "tool_use",
    "usage",
]

_PLATFORM_PATHS = (
    re.compile(r"^/model/(?P<model>[^/]+)/invoke(?P<stream>-with-response-stream)?$"),
    re.compile(r"^/projects/.+/models/(?P<model>[^/]+):(?:rawPredict|(?P<stream>streamRawPredict))$"),
)


class MessagesAPI:
    """The server, a context manager; see the module's docstring."""

    def __init__(self, responder: Callable[[Request], Reply] | None = None, *, port: int = 0) -> None:
        self.requests: list[Request] = []
        self.stopping = threading.Event()
        self._responder = responder or (lambda request: message())
        self._script: deque[Reply] = deque()
        self._replies: list[Reply] = []
        self._lock = threading.Lock()
        self._ids = 0
        self._server = _Server(self, port)
        self._thread = threading.Thread(
            target=self._server.serve_forever,
            kwargs={"poll_interval": 0.02},
            name="messages-api",
            daemon=True,
        )

    @property
    def url(self) -> str:
        """The base URL for a client."""
        return f"http://127.0.0.1:{self._server.server_address[1]}"

    def script(self, *replies: Reply) -> None:
        """Append replies to the script."""
        with self._lock:
            self._script.extend(replies)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stopping.set()
        with self._lock:
            for reply in self._replies:
                reply.release.set()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join(5)

    def take(self, request: Request) -> Reply:
        """Record a request and choose its reply."""
        with self._lock:
            self.requests.append(request)
            reply = self._script.popleft() if self._script else None
        if reply is None:
            reply = self._responder(request)
        with self._lock:
            self._replies.append(reply)
            if reply.message is not None:
                self._ids += 1
                reply.message["id"] = reply.message["id"] or f"msg_{self._ids:06d}"
                reply.message["model"] = reply.message["model"] or request.model
        if self.stopping.is_set():
            reply.release.set()
        return reply


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False

    def __init__(self, api: MessagesAPI, port: int) -> None:
        self.api = api
        super().__init__(("127.0.0.1", port), _Handler)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that hung up is part of many tests."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    server: _Server

    def log_message(self, *args: Any) -> None:
        """Say nothing: tests read ``api.requests``."""

    def do_POST(self) -> None:
        data = self.rfile.read(int(self.headers.get("content-length", 0)))
        path, _, _ = self.path.partition("?")
        headers = {name.lower(): value for name, value in self.headers.items()}
        body = cast("JSON", json.loads(data or b"{}"))
        platform = next((match for pattern in _PLATFORM_PATHS if (match := pattern.match(path))), None)
        request = Request(
            self.path,
            headers,
            body,
            model=platform["model"] if platform else str(body.get("model", "")),
            stream=bool(platform["stream"]) if platform else bool(body.get("stream")),
        )
        if path == "/v1/messages/count_tokens":
            return self._whole(raw(b'{"input_tokens": 7}'))
        if path != "/v1/messages" and not platform:
            return self._whole(error(404))
        if not ({"x-api-key", "authorization"} & headers.keys()):
            return self._whole(error(401))
        reply = self.server.api.take(request)
        if not {"messages", "max_tokens"} <= body.keys() or not request.model:
            return self._whole(error(400))
        if reply.hold_after == 0:
            self._hold(reply)
        if reply.message is not None and request.stream:
            return self._stream(reply, aws="/invoke-with-response-stream" in path)
        if reply.message is not None:
            reply.body = json.dumps(reply.message).encode()
        return self._whole(reply)

    def _hold(self, reply: Reply) -> None:
        reply.held.set()
        reply.release.wait(30)

    def _start(self, reply: Reply, headers: dict[str, str]) -> None:
        self.send_response(reply.status)
        defaults = {"content-type": "application/json", "request-id": f"req_{id(reply):x}"}
        for name, value in (defaults | headers | reply.headers).items():
            self.send_header(name, value)
        self.end_headers()

    def _whole(self, reply: Reply) -> None:
        body = gzip.compress(reply.body) if reply.compress else reply.body
        encoding = {"content-encoding": "gzip"} if reply.compress else {}
        self._start(reply, encoding | {"content-length": str(len(body))})
        self.wfile.write(body)

    def _stream(self, reply: Reply, *, aws: bool) -> None:
        kind = "application/vnd.amazon.eventstream" if aws else "text/event-stream; charset=utf-8"
        headers = {"content-type": kind, "transfer-encoding": "chunked"}
        self._start(reply, headers | ({"content-encoding": "gzip"} if reply.compress else {}))
        encode = self._aws if aws else self._sse
        packer = zlib.compressobj(wbits=31)
        for sent, event in enumerate(sse_events(reply)):
            if sent == reply.hold_after and sent > 0:
                self._hold(reply)
            if sent == reply.cut_after:
                return self._cut(reply, encode)
            piece = encode(event["type"], json.dumps(event))
            if reply.compress:
                piece = packer.compress(piece) + packer.flush(zlib.Z_SYNC_FLUSH)
            self._chunk(piece)
        if reply.compress:
            self._chunk(packer.flush())
        return self._end()

    def _cut(self, reply: Reply, encode: Callable[[str, str], bytes]) -> None:
        if reply.cut == "reset":
            self.wfile.write(b"400\r\nevent: content_block")
            self.wfile.flush()
            self.close_connection = True
            return
        if reply.cut == "error":
            detail = {"type": reply.error_type, "message": "scripted error event"}
            self._chunk(encode("error", json.dumps({"type": "error", "error": detail})))
        elif reply.cut == "bad_json":
            self._chunk(encode("content_block_delta", '{"type": "content_block_delta", "delta":'))
        self._end()

    @staticmethod
    def _sse(kind: str, data: str) -> bytes:
        return f"event: {kind}\ndata: {data}\n\n".encode()

    @staticmethod
    def _aws(kind: str, data: str) -> bytes:
        if kind == "error":
            detail = json.loads(data)["error"]
            return aws_frame(
                json.dumps({"message": detail["message"]}).encode(),
                {":message-type": "exception", ":exception-type": detail["type"]},
            )
        payload = json.dumps({"bytes": base64.b64encode(data.encode()).decode()}).encode()
        return aws_frame(payload, {":message-type": "event", ":event-type": "chunk"})

    def _chunk(self, data: bytes) -> None:
        self.wfile.write(f"{len(data):x}\r\n".encode() + data + b"\r\n")
        self.wfile.flush()

    def _end(self) -> None:
        self.wfile.write(b"0\r\n\r\n")
        self.wfile.flush()


def main() -> None:
    """Serve until interrupted."""
    parser = argparse.ArgumentParser(description="A stand-in for Anthropic's Messages API on 127.0.0.1.")
    parser.add_argument("--port", type=int, default=8800)
    with MessagesAPI(port=parser.parse_args().port) as api:
        print(f"serving the Messages API on {api.url}; end with Ctrl-C", flush=True)  # noqa: T201
        with suppress(KeyboardInterrupt):
            threading.Event().wait()


if __name__ == "__main__":
    main()

"""What the local Messages API is asked and can be told to answer; ``messages_api`` serves it."""

from __future__ import annotations

import json
import struct
import threading
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Literal

JSON = dict[str, Any]

ERROR_TYPES = {
    400: "invalid_request_error",
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    413: "request_too_large",
    429: "rate_limit_error",
    500: "api_error",
    504: "timeout_error",
    529: "overloaded_error",
}


@dataclass(frozen=True)
class Request:
    """What one attempt of a client sent; header names are in lower case."""

    path: str
    headers: dict[str, str]
    body: JSON
    model: str
    stream: bool


@dataclass
class Reply:
    """How to answer one request. Build it with ``message``, ``error`` or ``raw``.

    ``cut_after`` ends a stream after that many events: with ``cut="reset"`` the connection breaks in the
    middle of a chunk, with ``"end"`` the body ends as if all were well, with ``"error"`` an ``error`` event
    comes first, with ``"bad_json"`` an event whose data is not JSON.
    """

    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes = b""
    message: JSON | None = None
    text_pieces: int = 3
    delta_usage: JSON | None = None
    hold_after: int | None = None
    cut_after: int | None = None
    cut: Literal["reset", "end", "error", "bad_json"] = "reset"
    error_type: str = "overloaded_error"
    compress: bool = False
    held: threading.Event = field(default_factory=threading.Event)
    release: threading.Event = field(default_factory=threading.Event)


def usage(
    input_tokens: int = 10,
    output_tokens: int = 5,
    *,
    cache_read: int = 0,
    cache_5m: int = 0,
    cache_1h: int = 0,
    thinking: int | None = None,
    **more: Any,
) -> JSON:
    """The API's ``usage`` object; ``input_tokens`` leaves out what the cache read or wrote."""
    value: JSON = {
        "input_tokens": input_tokens,
        "cache_read_input_tokens": cache_read,
        "cache_creation_input_tokens": cache_5m + cache_1h,
        "cache_creation": {"ephemeral_5m_input_tokens": cache_5m, "ephemeral_1h_input_tokens": cache_1h},
        "output_tokens": output_tokens,
        "service_tier": "standard",
    }
    if thinking is not None:
        value["output_tokens_details"] = {"thinking_tokens": thinking}
    return value | more


_default_usage = usage


def message(
    text: str = "The tide is rising.",
    *,
    content: list[JSON] | None = None,
    usage: JSON | None = None,
    stop_reason: str = "end_turn",
    model: str | None = None,
    message_id: str | None = None,
    **reply: Any,
) -> Reply:
    """A good answer: a text, or any content blocks, by default under the request's model and a fresh id."""
    body: JSON = {
        "id": message_id,
        "type": "message",
        "role": "assistant",
        "model": model,
        "content": [{"type": "text", "text": text}] if content is None else content,
        "stop_reason": stop_reason,
        "stop_sequence": None,
        "usage": _default_usage() if usage is None else usage,
    }
    return Reply(message=body, **reply)


def error(status: int, *, retry_after: float | None = None, kind: str | None = None, **reply: Any) -> Reply:
    """The API's error envelope; ``retry_after`` is in seconds."""
    kind = kind or ERROR_TYPES.get(status, "api_error")
    body = json.dumps({"type": "error", "error": {"type": kind, "message": f"scripted {status}"}}).encode()
    headers = {} if retry_after is None else {"retry-after": str(retry_after)}
    return Reply(status=status, headers=headers, body=body, **reply)


def raw(body: bytes, status: int = 200, content_type: str = "application/json", **reply: Any) -> Reply:
    """Any bytes, such as JSON cut short."""
    return Reply(status=status, headers={"content-type": content_type}, body=body, **reply)


def tool_use(name: str = "get_tide", arguments: JSON | None = None, tool_id: str = "toolu_1") -> JSON:
    """A ``tool_use`` content block."""
    return {"type": "tool_use", "id": tool_id, "name": name, "input": arguments or {"port": "Bergen"}}


def thinking(text: str = "Let me see.") -> JSON:
    """A ``thinking`` content block."""
    return {"type": "thinking", "thinking": text, "signature": "c2ln"}


def sse_events(reply: Reply) -> Iterator[JSON]:
    """A message as the events of a stream, in the API's order."""
    answer = reply.message or {}
    total: JSON = answer["usage"]
    started = {
        **answer,
        "content": [],
        "stop_reason": None,
        "usage": {
            key: value for key, value in total.items() if key not in ("output_tokens_details", "iterations")
        }
        | {"output_tokens": 1},
    }
    yield {"type": "message_start", "message": started}
    for index, block in enumerate(answer["content"]):
        opened, deltas = _block_events(block, reply.text_pieces)
        yield {"type": "content_block_start", "index": index, "content_block": opened}
        if index == 0:
            yield {"type": "ping"}
        for delta in deltas:
            yield {"type": "content_block_delta", "index": index, "delta": delta}
        yield {"type": "content_block_stop", "index": index}
    yield {
        "type": "message_delta",
        "delta": {"stop_reason": answer["stop_reason"], "stop_sequence": answer["stop_sequence"]},
        "usage": _without(total, "cache_creation", "service_tier")
        if reply.delta_usage is None
        else reply.delta_usage,
    }
    yield {"type": "message_stop"}


def _without(value: JSON, *names: str) -> JSON:
    return {key: item for key, item in value.items() if key not in names}


def _block_events(block: JSON, pieces: int) -> tuple[JSON, list[JSON]]:
    if block["type"] == "text":
        return {**block, "text": ""}, [
            {"type": "text_delta", "text": part} for part in _cut(block["text"], pieces)
        ]
    if block["type"] == "tool_use":
        parts = _cut(json.dumps(block["input"]), pieces)
        return {**block, "input": {}}, [{"type": "input_json_delta", "partial_json": part} for part in parts]
    if block["type"] == "thinking":
        parts = _cut(block["thinking"], pieces)
        deltas: list[JSON] = [{"type": "thinking_delta", "thinking": part} for part in parts]
        return {**block, "thinking": "", "signature": ""}, [
            *deltas,
            {"type": "signature_delta", "signature": block["signature"]},
        ]
    return block, []


def _cut(text: str, pieces: int) -> list[str]:
    size = max(1, -(-len(text) // pieces))
    return [text[start : start + size] for start in range(0, len(text), size)]


def aws_frame(payload: bytes, headers: dict[str, str]) -> bytes:
    """One frame of ``application/vnd.amazon.eventstream`` with string headers."""
    encoded = b"".join(
        struct.pack(">B", len(name)) + name.encode() + struct.pack(">BH", 7, len(value)) + value.encode()
        for name, value in headers.items()
    )
    prelude = struct.pack(">II", 16 + len(encoded) + len(payload), len(encoded))
    prelude += struct.pack(">I", zlib.crc32(prelude))
    return prelude + encoded + payload + struct.pack(">I", zlib.crc32(prelude + encoded + payload))

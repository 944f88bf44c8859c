"""What a Messages API response says of itself, read from its bytes: pure, and without the anthropic package.

Reading the bytes and not the parsed objects has three reasons: the billed usage survives where the
application's parsing fails (truncated structured output), every way to consume a response is covered by one
reader, and nothing that the application holds is touched.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from typing import Any, Final

import msgspec
from msgspec import Struct

SSE: Final = "text/event-stream"
AWS_EVENT_STREAM: Final = "application/vnd.amazon.eventstream"
INCOMPLETE: Final = "incomplete_stream"
"""Error of a stream that the server ended without a stop reason; the package raises nothing then."""
BAD_JSON: Final = "json.decoder.JSONDecodeError"
"""Error of a message or event that is not JSON: what the anthropic package raises."""

_MAX_AWS_FRAME: Final = 24 * 1024 * 1024
_AWS_HEADER_SIZES: Final = {0: 0, 1: 0, 2: 1, 3: 2, 4: 4, 5: 8, 8: 8, 9: 16}


class _CacheCreation(Struct):
    ephemeral_5m_input_tokens: int | None = None
    ephemeral_1h_input_tokens: int | None = None


class _OutputDetails(Struct):
    thinking_tokens: int | None = None


class _Iteration(Struct):
    type: str = ""
    input_tokens: int | None = None
    output_tokens: int | None = None
    cache_read_input_tokens: int | None = None
    cache_creation_input_tokens: int | None = None
    cache_creation: _CacheCreation | None = None


class _Usage(Struct):
    input_tokens: int | None = None
    output_tokens: int | None = None
    cache_read_input_tokens: int | None = None
    cache_creation_input_tokens: int | None = None
    cache_creation: _CacheCreation | None = None
    output_tokens_details: _OutputDetails | None = None
    iterations: list[_Iteration] | None = None


class _Message(Struct):
    id: str = ""
    model: str = ""
    stop_reason: str | None = None
    usage: _Usage | None = None
    content: msgspec.Raw = msgspec.Raw()


class _MessageStart(Struct):
    message: _Message


class _StopDelta(Struct):
    stop_reason: str | None = None


class _MessageDelta(Struct):
    delta: _StopDelta | None = None
    usage: _Usage | None = None


class _TextDelta(Struct):
    type: str = ""
    text: str | None = None


class _ContentDelta(Struct):
    delta: _TextDelta | None = None


class _Error(Struct):
    type: str = ""


class _ErrorEvent(Struct):
    error: _Error | None = None


class _Typed(Struct):
    type: str = ""


class _AwsChunk(Struct, rename={"data": "bytes"}):
    data: bytes | None = None  # base64 on the wire


_message = msgspec.json.Decoder(_Message)
_message_start = msgspec.json.Decoder(_MessageStart)
_message_delta = msgspec.json.Decoder(_MessageDelta)
_content_delta = msgspec.json.Decoder(_ContentDelta)
_error_event = msgspec.json.Decoder(_ErrorEvent)
_typed = msgspec.json.Decoder(_Typed)
_blocks = msgspec.json.Decoder(list[_TextDelta])
_aws_chunk = msgspec.json.Decoder(_AwsChunk)


class Answer:
    """What is known of a response so far.

    Attributes:
        id: the message's id, or ``""``.
        model: the model that answered, or ``""``.
        stop_reason: ``None`` until the model stopped.
        error: what went wrong in the body itself: the provider's error code or one of the constants above.
        content_begun: whether a ``content_block_delta`` has come: the first piece of generated content. (The
            ``content_block_start`` before it says what will come, and arrives before anything is generated.)
        unreadable: how many times a known event or message did not have the shape that was expected.
        stopped: whether a stream's last event has come.
        text: the pieces of the text blocks; empty unless text is kept.
    """

    __slots__ = ("_final", "_keep_text", "_usage", "content_begun", "error", "id", "model", "stop_reason",
                 "stopped", "text", "unreadable")  # fmt: skip

    def __init__(self, *, keep_text: bool = False) -> None:
        self.id = ""
        self.model = ""
        self.stop_reason: str | None = None
        self.error = ""
        self.content_begun = False
        self.stopped = False
        self.unreadable = 0
        self.text: list[str] = []
        self._keep_text = keep_text
        self._usage: _Usage | None = None
        self._final = False

    def usage(self) -> dict[str, int | None] | None:
        """The arguments of ``Call.set_usage``, or ``None`` if nothing is known.

        Anthropic's ``input_tokens`` leaves out cache reads and writes, OpenTelemetry's includes them: they
        are added up. The tokens of a compaction (beta) are billed on top of the message's own, and added too;
        those of an advisor are not, as they are another model's. Before ``message_delta`` a stream has only a
        placeholder for the output tokens, so they are unknown (``None``) and not the placeholder.
        """
        usage = self._usage
        if usage is None:
            return None
        creation, one_hour = _cache_writes(usage)
        read = usage.cache_read_input_tokens or 0
        fresh, output = usage.input_tokens, usage.output_tokens if self._final else None
        for extra in usage.iterations or () if self._final else ():
            if extra.type == "compaction":
                extra_creation, extra_one_hour = _cache_writes(extra)
                creation += extra_creation
                one_hour += extra_one_hour
                read += extra.cache_read_input_tokens or 0
                fresh = (fresh or 0) + (extra.input_tokens or 0)
                output = (output or 0) + (extra.output_tokens or 0)
        details = usage.output_tokens_details if self._final else None
        return {
            "input_tokens": None if fresh is None else fresh + read + creation,
            "output_tokens": output,
            "cache_read_input_tokens": read,
            "cache_creation_input_tokens": creation,
            "cache_creation_1h_input_tokens": one_hour,
            "reasoning_output_tokens": (details.thinking_tokens or 0) if details is not None else 0,
        }

    def read_message(self, body: bytes) -> None:
        """Take in a whole message."""
        self._read(self._document, body)

    def read_event(self, event: str, data: bytes) -> None:
        """Take in one event of a stream."""
        self._read(self._event, event, data)

    def _read(self, step: Callable[..., None], *args: Any) -> None:
        try:
            step(*args)
        except msgspec.ValidationError:
            self.unreadable += 1
        except (msgspec.DecodeError, RecursionError, UnicodeDecodeError):
            self.error = self.error or BAD_JSON

    def _document(self, body: bytes) -> None:
        message = _message.decode(body)
        self._begin(message)
        self._final = True
        if self._keep_text and bytes(message.content):
            self.text = [
                block.text or "" for block in _blocks.decode(message.content) if block.type == "text"
            ]

    def _event(self, event: str, data: bytes) -> None:
        if event == "content_block_delta":
            self.content_begun = True
            if self._keep_text:
                delta = _content_delta.decode(data).delta
                if delta is not None and delta.type == "text_delta" and delta.text:
                    self.text.append(delta.text)
            else:
                _typed.decode(data)
        elif event == "message_start":
            self._begin(_message_start.decode(data).message)
        elif event == "message_delta":
            change = _message_delta.decode(data)
            if change.delta is not None and change.delta.stop_reason is not None:
                self.stop_reason = change.delta.stop_reason
            if change.usage is not None:
                self._merge(change.usage)
                self._final = True
        elif event == "error":
            detail = _error_event.decode(data).error
            self.error = (detail.type if detail is not None else "") or "error"
        else:
            _typed.decode(data)
            self.stopped = self.stopped or event == "message_stop"

    def _begin(self, message: _Message) -> None:
        self.id = message.id
        self.model = message.model
        self.stop_reason = message.stop_reason
        self._usage = message.usage

    def _merge(self, later: _Usage) -> None:
        # The numbers of message_delta are cumulative, and it repeats only some of those of message_start.
        if self._usage is None:
            self._usage = later
            return
        for name in _Usage.__struct_fields__:
            value = getattr(later, name)
            if value is not None:
                setattr(self._usage, name, value)


def _cache_writes(usage: _Usage | _Iteration) -> tuple[int, int]:
    """All tokens written to the cache, and those of them that live for an hour."""
    split = usage.cache_creation
    one_hour = (split.ephemeral_1h_input_tokens or 0) if split is not None else 0
    five_minutes = (split.ephemeral_5m_input_tokens or 0) if split is not None else 0
    return max(usage.cache_creation_input_tokens or 0, one_hour + five_minutes), one_hour


class BodyReader:
    """Takes in a response's decoded bytes as they come, however they are cut, and fills an ``Answer``.

    Args:
        answer: what to fill.
        content_type: of the response; anything but the two kinds of stream is read as one JSON document.
    """

    def __init__(self, answer: Answer, content_type: str) -> None:
        media_type = content_type.partition(";")[0].strip().lower()
        self.streams = media_type in (SSE, AWS_EVENT_STREAM)
        self._answer = answer
        self._buffer = b""
        self._event = ""
        self._data: list[bytes] = []
        self._pieces: list[bytes] = []
        self._take = {SSE: BodyReader._feed_sse, AWS_EVENT_STREAM: BodyReader._feed_aws}.get(
            media_type, BodyReader._feed_document
        )

    def feed(self, data: bytes) -> None:
        """Take in the next bytes."""
        self._take(self, data)

    def end(self) -> None:
        """Say that the body is complete."""
        if not self.streams:
            self._answer.read_message(b"".join(self._pieces))
        elif self._answer.stop_reason is None and not self._answer.error:
            self._answer.error = INCOMPLETE

    def _feed_document(self, data: bytes) -> None:
        self._pieces.append(data)

    def _skip(self, data: bytes) -> None:
        pass

    def _feed_sse(self, data: bytes) -> None:
        lines = (self._buffer + data).splitlines(keepends=True)
        # A last line that ends in a carriage return may have its line feed in the next piece.
        self._buffer = lines.pop() if lines and not lines[-1].endswith(b"\n") else b""
        for line in lines:
            self._sse_line(line.rstrip(b"\r\n"))

    def _sse_line(self, line: bytes) -> None:
        if not line:
            if self._event and self._event != "ping" and self._data:
                self._answer.read_event(self._event, b"\n".join(self._data))
            self._event = ""
            self._data = []
            return
        name, _, value = line.partition(b":")
        value = value.removeprefix(b" ")
        if name == b"data":
            self._data.append(value)
        elif name == b"event":
            self._event = value.decode("utf-8", "replace")

    def _feed_aws(self, data: bytes) -> None:
        # https://docs.aws.amazon.com/transcribe/latest/dg/event-stream.html: total length, headers' length,
        # CRC, headers, payload, CRC.
        buffer = self._buffer + data
        while len(buffer) >= 12:
            total, headers_length = struct.unpack_from(">II", buffer)
            if not 16 + headers_length <= total <= _MAX_AWS_FRAME:
                self._answer.unreadable += 1
                self._take = BodyReader._skip
                self._buffer = b""
                return
            if len(buffer) < total:
                break
            self._aws_frame(buffer[12 : 12 + headers_length], buffer[12 + headers_length : total - 4])
            buffer = buffer[total:]
        self._buffer = buffer

    def _aws_frame(self, headers: bytes, payload: bytes) -> None:
        try:
            named = _aws_headers(headers)
            if named.get(":message-type", "event") != "event":
                self._answer.error = named.get(":exception-type") or named.get(":error-code") or "error"
                return
            data = _aws_chunk.decode(payload).data
        except (msgspec.MsgspecError, IndexError, struct.error):
            self._answer.unreadable += 1
            return
        if data:
            try:
                event = _typed.decode(data).type
            except msgspec.MsgspecError:
                self._answer.unreadable += 1
                return
            self._answer.read_event(event, data)


def _aws_headers(data: bytes) -> dict[str, str]:
    headers: dict[str, str] = {}
    at = 0
    while at < len(data):
        length = data[at]
        name = data[at + 1 : at + 1 + length].decode("utf-8", "replace")
        kind = data[at + 1 + length]
        at += 2 + length
        if kind in (6, 7):
            (size,) = struct.unpack_from(">H", data, at)
            at += 2
            if kind == 7:
                headers[name] = data[at : at + size].decode("utf-8", "replace")
        else:
            size = _AWS_HEADER_SIZES.get(kind, len(data))
        at += size
    return headers


def prompt_text(body: Any) -> str:
    """The text of a request's system prompt and messages, for capturing; other kinds of content are left out.

    A single user message without a system prompt is its bare text; otherwise each is headed by its role. Only
    lists are read: an iterator that the caller passed is his to consume.
    """
    if not isinstance(body, dict):
        return ""
    parts = [("system", _content_text(body.get("system")))]
    messages = body.get("messages")
    if isinstance(messages, (list, tuple)):
        parts += [
            (str(message.get("role", "")), _content_text(message.get("content")))
            for message in messages
            if isinstance(message, dict)
        ]
    parts = [(role, text) for role, text in parts if text]
    if len(parts) == 1 and parts[0][0] == "user":
        return parts[0][1]
    return "\n\n".join(f"{role}: {text}" for role, text in parts)


def _content_text(content: Any) -> str:
    if isinstance(content, str):
        return content
    if not isinstance(content, (list, tuple)):
        return ""
    texts = [
        block["text"] for block in content if isinstance(block, dict) and isinstance(block.get("text"), str)
    ]
    return "\n".join(texts)

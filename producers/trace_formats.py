"""The formats of recorded traces: how a file falls into records, and a record into the fields of an event.

``azure``: the LLM inference traces of Azure's public dataset, of 2023 and 2024 (CSV: ``TIMESTAMP``, UTC;
    ``ContextTokens``; ``GeneratedTokens``). They tell neither the model nor how long a call took, and neither is
    made up: the events are of service ``azure``, provider ``azure.ai.openai``, model ``""``, and unpriced.
``aider``: aider's published analytics (JSON lines). ``message_send`` is a call; its ``cost`` counts as reported,
    except that aider writes 0 where it knows no price. ``message_send_exception`` is a call that failed: its text
    may quote anything and is left out, so ``error.type`` is OpenTelemetry's ``_OTHER``. ``edit_format`` is the
    prompt. Other events are skipped, and counted by their kind.
``jsonl``: JSON lines: events as on the wire, or anything with a column map.
``csv``: with a header; columns named like the fields, or anything with a column map.
"""

from __future__ import annotations

import codecs
import csv
from collections.abc import Iterator
from decimal import ROUND_HALF_EVEN, Decimal
from typing import IO, Any, Final, NamedTuple, Protocol

import msgspec

from tidegauge.errors import InvalidEventError, UsageError
from tidegauge.schemas.codec import MAX_MESSAGE_BYTES, explain

from .columns import WIRE_NAMES, Column, ColumnMap

csv.field_size_limit(MAX_MESSAGE_BYTES)


class Record(NamedTuple):
    """A record of a file: the line it ends on (the first is 1), its bytes, and what they are."""

    line: int
    content: bytes
    value: Any


class BadRecord(NamedTuple):
    """A record that was refused; ``line`` is where it ends."""

    line: int
    error: InvalidEventError


class Skipped(NamedTuple):
    """A record that is no model call."""

    kind: str


Fields = dict[str, Any]
"""An event's fields by wire name."""


class Format(Protocol):
    """A format; ``fields`` raises ``InvalidEventError`` for a bad record."""

    def records(self, stream: IO[bytes]) -> Iterator[Record | BadRecord]:
        """The records, and in place of those that cannot be read, where and why."""

    def fields(self, value: Any) -> Fields | Skipped:
        """The event that a record tells of."""


class CSV:
    """Comma-separated values with a header.

    Args:
        columns: the column map; ``None`` goes by the header.
        constants: fields that all events share, by wire name.
    """

    def __init__(self, columns: ColumnMap | None = None, constants: Fields | None = None) -> None:
        self._columns = columns
        self._constants = constants or {}
        self._header: list[str] = []

    def records(self, stream: IO[bytes]) -> Iterator[Record | BadRecord]:
        """The rows after the header; raises ``UsageError`` if it lacks a column."""
        reader = csv.reader(_text_lines(stream), strict=True)
        try:
            self._header = [name.strip() for name in next(reader, [])]
        except csv.Error as error:
            raise UsageError(f"no CSV: its header cannot be read ({error})") from None
        if not self._header:
            return
        if self._columns is None:
            self._columns = ColumnMap.of_header(self._header)
        self._columns.check(self._header)
        while True:
            try:
                row = next(reader)
            except StopIteration:
                return
            except csv.Error as error:
                yield BadRecord(reader.line_num, InvalidEventError("invalid_csv", "", str(error)))
                continue
            if not row:
                continue
            if len(row) != len(self._header):
                expected = f"{len(self._header)} columns, got {len(row)}"
                yield BadRecord(reader.line_num, InvalidEventError("invalid_csv", "", expected))
                continue
            try:
                content = "\x1f".join(row).encode()
            except UnicodeEncodeError:
                yield BadRecord(reader.line_num, InvalidEventError("invalid_csv", "", "valid UTF-8"))
                continue
            yield Record(reader.line_num, content, row)

    def fields(self, value: Any) -> Fields:
        """The event of a row."""
        assert self._columns is not None
        return self._constants | self._columns.fields(dict(zip(self._header, value, strict=True)))


def _text_lines(stream: IO[bytes]) -> Iterator[str]:
    first = True
    while line := stream.readline(MAX_MESSAGE_BYTES + 1):
        yield line.removeprefix(codecs.BOM_UTF8 if first else b"").decode("utf-8", "surrogateescape")
        first = False


def azure() -> CSV:
    """Azure's LLM inference traces."""
    columns = (
        Column("time", "TIMESTAMP", unit="iso"),
        Column(WIRE_NAMES["input_tokens"], "ContextTokens"),
        Column(WIRE_NAMES["output_tokens"], "GeneratedTokens"),
    )
    constants = {WIRE_NAMES["service"]: "azure", WIRE_NAMES["provider"]: "azure.ai.openai"}
    return CSV(ColumnMap(columns), constants)


class JSONLines:
    """JSON lines: events as on the wire, or anything with a column map."""

    exact: bool
    """Whether numbers are read as decimals: money is then rounded once, from the digits in the file."""

    def __init__(self, columns: ColumnMap | None = None) -> None:
        self._columns = columns
        self.exact = columns is not None

    def records(self, stream: IO[bytes]) -> Iterator[Record | BadRecord]:
        """The lines that are not blank."""
        decode = msgspec.json.Decoder(dict[str, Any], float_hook=Decimal if self.exact else None).decode
        number = 0
        while line := stream.readline(MAX_MESSAGE_BYTES + 1):
            number += 1
            if len(line) > MAX_MESSAGE_BYTES:
                while line and not line.endswith(b"\n"):
                    line = stream.readline(MAX_MESSAGE_BYTES)
                error = InvalidEventError("too_large", "", f"at most {MAX_MESSAGE_BYTES} bytes")
                yield BadRecord(number, error)
                continue
            content = line.strip()
            if not content:
                continue
            try:
                yield Record(number, content, decode(content))
            except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as wrong:
                yield BadRecord(number, explain(wrong))

    def fields(self, value: Any) -> Fields | Skipped:
        """The event of a line's object."""
        return value if self._columns is None else self._columns.fields(value)


# litellm's prefixes, which aider puts before its models, as OpenTelemetry's provider names.
_AIDER_PROVIDERS: Final = {
    "azure": "azure.ai.openai",
    "azure_ai": "azure.ai.inference",
    "bedrock": "aws.bedrock",
    "gemini": "gcp.gemini",
    "mistral": "mistral_ai",
    "vertex_ai": "gcp.vertex_ai",
    "xai": "x_ai",
}
# Models that aider names without a prefix go to their makers.
_MAKERS: Final = (
    ("claude", "anthropic"),
    ("gpt-", "openai"),
    ("chatgpt", "openai"),
    ("o1", "openai"),
    ("o3", "openai"),
    ("o4", "openai"),
    ("gemini", "gcp.gemini"),
    ("deepseek", "deepseek"),
)
_NANO: Final = Decimal(10**9)


class Aider(JSONLines):
    """aider's published analytics."""

    def __init__(self) -> None:
        super().__init__()
        self.exact = True

    def fields(self, value: Any) -> Fields | Skipped:
        """The event of a line's object."""
        kind = value.get("event")
        if not isinstance(kind, str):
            raise InvalidEventError("missing_field", "event", "is required")
        if kind not in ("message_send", "message_send_exception"):
            return Skipped(kind)
        properties = value.get("properties")
        if not isinstance(properties, dict):
            raise InvalidEventError("missing_field", "properties", "is required")
        time = value.get("time")
        if not isinstance(time, int | float | Decimal) or isinstance(time, bool):
            raise InvalidEventError("wrong_type", "time", "Unix seconds")
        fields: Fields = {
            "time": float(time),
            WIRE_NAMES["service"]: "aider",
            WIRE_NAMES["user"]: value.get("user_id") or "",
            WIRE_NAMES["prompt"]: properties.get("edit_format") or "",
        }
        if kind == "message_send_exception":
            return fields | {WIRE_NAMES["error"]: "_OTHER"}
        provider, model = _aider_model(properties.get("main_model"))
        tokens = properties.get("prompt_tokens"), properties.get("completion_tokens")
        fields |= {
            WIRE_NAMES["provider"]: provider,
            WIRE_NAMES["model"]: model,
            WIRE_NAMES["input_tokens"]: tokens[0],
            WIRE_NAMES["output_tokens"]: tokens[1],
        }
        cost = properties.get("cost")
        if cost is None or (cost == 0 and any(tokens)):
            return fields
        if not isinstance(cost, int | Decimal) or isinstance(cost, bool) or not 0 <= cost <= 10**9:
            raise InvalidEventError("wrong_type", "cost", "a number of USD")
        nano = (Decimal(cost) * _NANO).to_integral_value(ROUND_HALF_EVEN)
        return fields | {WIRE_NAMES["cost"]: int(nano)}


def _aider_model(name: Any) -> tuple[str, str]:
    if not isinstance(name, str) or name == "None":
        return "", ""
    prefix, slash, model = name.partition("/")
    if slash:
        return _AIDER_PROVIDERS.get(prefix, prefix), model
    return next((maker for start, maker in _MAKERS if name.startswith(start)), ""), name


FORMATS: Final = ("azure", "aider", "jsonl", "csv")


def make_format(name: str, columns: ColumnMap | None = None) -> Format:
    """The format of a name in ``FORMATS``; only ``jsonl`` and ``csv`` take a column map."""
    if columns is not None and name not in ("jsonl", "csv"):
        raise UsageError(f"the format {name} takes no column map")
    if name == "azure":
        return azure()
    if name == "aider":
        return Aider()
    return JSONLines(columns) if name == "jsonl" else CSV(columns)

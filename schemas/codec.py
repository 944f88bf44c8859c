"""Bytes to types and back, with reasons a person can act on.

A message is one event or a JSON array of events. Unknown fields are skipped. A refused event names the field and
what was expected, never the value, which may be private.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from operator import attrgetter
from typing import Final, Generic, TypeVar

import msgspec

from tidegauge.errors import InvalidEventError

from .common import SCHEMA_VERSION
from .diagnosis import explain, split_array

__all__ = ["MAX_EVENTS_PER_MESSAGE", "MAX_MESSAGE_BYTES", "Codec", "Refused", "encode", "explain"]

MAX_MESSAGE_BYTES: Final = 4 * 1024 * 1024
MAX_EVENTS_PER_MESSAGE: Final = 10_000

T = TypeVar("T")
_encoder = msgspec.json.Encoder()
_version = attrgetter("schema_version")


@dataclass(frozen=True)
class Refused:
    """One event that was refused: its position in the array (``None``: the whole message), why, and its bytes."""

    index: int | None
    error: InvalidEventError
    raw: bytes


def encode(event: object) -> bytes:
    """The JSON bytes of one event (or of a list of them)."""
    return _encoder.encode(event)


class Codec(Generic[T]):
    """Decodes messages of one wire type.

    Args:
        kind: the struct to decode into.
    """

    def __init__(self, kind: type[T]) -> None:
        self.kind = kind
        self._one = msgspec.json.Decoder(kind)
        self._many = msgspec.json.Decoder(list[kind])  # type: ignore[valid-type]
        self._raw = msgspec.json.Decoder(list[msgspec.Raw])
        self._rule: Callable[[T], None] | None = getattr(kind, "check", None)
        self.decode_one: Final = self._one.decode if self._rule is None else self._decode_ruled
        """The fast path for a message known to be one event; raises msgspec's errors."""

    def decode(self, message: bytes | None) -> tuple[Sequence[T], list[Refused]]:
        """All good events of a message, and those refused, which cost nobody but themselves."""
        if message is None:
            return (), [Refused(None, InvalidEventError("empty", "", "a JSON event, got no value"), b"")]
        if len(message) > MAX_MESSAGE_BYTES:
            too_large = InvalidEventError("too_large", "", f"at most {MAX_MESSAGE_BYTES} bytes")
            return (), [Refused(None, too_large, message)]
        if message.lstrip()[:1] != b"[":
            try:
                return (self._check(self._one.decode(message)),), []
            except (msgspec.MsgspecError, InvalidEventError, RecursionError, UnicodeDecodeError) as error:
                return (), [Refused(None, explain(error, self.kind, message), message)]
        return self._decode_array(message)

    def _decode_array(self, message: bytes) -> tuple[Sequence[T], list[Refused]]:
        try:
            events = self._many.decode(message)
            if 0 < len(events) <= MAX_EVENTS_PER_MESSAGE:
                if self._rule is not None or max(map(_version, events)) > SCHEMA_VERSION:
                    events = [self._check(event) for event in events]
                return events, []
        except (msgspec.MsgspecError, InvalidEventError, RecursionError, UnicodeDecodeError):
            pass  # found again below, event by event
        raws: Sequence[msgspec.Raw | bytes] | None
        try:
            raws = self._raw.decode(message)
        except (msgspec.MsgspecError, RecursionError, UnicodeDecodeError) as error:
            raws = split_array(message, MAX_EVENTS_PER_MESSAGE)
            if raws is None:
                return (), [Refused(None, explain(error), message)]
        if not 0 < len(raws) <= MAX_EVENTS_PER_MESSAGE:
            size = InvalidEventError(
                "array_size", "", f"an array of 1 to {MAX_EVENTS_PER_MESSAGE} events, got {len(raws)}"
            )
            return (), [Refused(None, size, message)]
        good: list[T] = []
        refused: list[Refused] = []
        for index, raw in enumerate(raws):
            try:
                good.append(self._check(self._one.decode(raw)))
            except (msgspec.MsgspecError, InvalidEventError, RecursionError, UnicodeDecodeError) as error:
                refused.append(Refused(index, explain(error, self.kind, bytes(raw)), bytes(raw)))
        return good, refused

    def split(self, message: bytes) -> Sequence[bytes] | None:
        """The bytes of each event of an array, good or bad; ``None`` of a message that is no readable array."""
        if message.lstrip()[:1] != b"[":
            return None
        try:
            return [bytes(raw) for raw in self._raw.decode(message)]
        except (msgspec.MsgspecError, RecursionError, UnicodeDecodeError):
            return split_array(message, MAX_EVENTS_PER_MESSAGE)

    def _decode_ruled(self, message: bytes) -> T:
        event = self._one.decode(message)
        try:
            return self._check(event)
        except InvalidEventError as error:
            raise msgspec.ValidationError(str(error)) from None

    def _check(self, event: T) -> T:
        version: int = getattr(event, "schema_version", SCHEMA_VERSION)
        if version > SCHEMA_VERSION:
            # A newer producer only adds fields within a version; a greater version changes their meaning.
            raise InvalidEventError(
                "schema_version", "schema_version", f"at most {SCHEMA_VERSION}; upgrade the workers first"
            )
        if self._rule is not None:
            self._rule(event)
        return event

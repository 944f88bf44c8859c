"""Dead letters: made from what was refused, and judged on whether they can be sent again."""

from __future__ import annotations

import msgspec

from tidegauge.schemas.codec import Refused
from tidegauge.schemas.deadletter import MAX_COPY_BYTES, DeadLetter
from tidegauge.settings import Topics


def letter_of_event(topic: str, partition: int, offset: int, refused: Refused, now: float) -> DeadLetter:
    """The dead letter of an event that was refused.

    Args:
        topic: where its message came from.
        partition: of ``topic``.
        offset: of the message.
        refused: why, and the bytes of the event.
        now: Unix seconds.
    """
    error, raw = refused.error, refused.raw
    copy = raw[:MAX_COPY_BYTES]
    return DeadLetter(
        topic,
        partition,
        offset,
        error.reason,
        error.field,
        error.expected,
        now,
        copy,
        len(raw),
        refused.index,
    )


class _Point(msgspec.Struct):
    time: int


def _rebuild_of(letter: DeadLetter) -> str:
    """The command that writes a refused point again."""
    try:
        start = msgspec.json.decode(letter.payload, type=_Point).time
    except msgspec.MsgspecError:
        return "tidegauge rebuild"
    return f"tidegauge rebuild --from {start} --to {start + 1}"


def why_not_resend(letter: DeadLetter, topics: Topics) -> str:
    """What keeps a letter from being sent again to where it came from, or ``""``."""
    if letter.reason == "store_refused":
        return f"a point that the store refused, not an event; once the store takes it: {_rebuild_of(letter)}"
    if letter.topic not in (topics.requests, topics.feedback, topics.judgements):
        # Whoever can write dead letters could otherwise have us write to any topic.
        return "does not come from a topic of events of these settings"
    if letter.truncated:
        return f"only {len(letter.payload)} of its {letter.payload_size} bytes were kept; ask its producer"
    if not letter.payload:
        return "had no content"
    return ""

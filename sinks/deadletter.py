"""Dead letters: made from what was refused, and judged on whether they can be sent again."""

from __future__ import annotations

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


def why_not_resend(letter: DeadLetter, topics: Topics) -> str:
    """What keeps a letter from being sent again to where it came from, or ``""``."""
    if letter.reason == "store_refused":
        return "a point that the store refused, not an event; once the store takes it: tidegauge rebuild"
    if letter.topic not in (topics.requests, topics.feedback, topics.judgements):
        # Whoever can write dead letters could otherwise have us write to any topic.
        return "does not come from a topic of events of these settings"
    if letter.truncated:
        return f"only {len(letter.payload)} of its {letter.payload_size} bytes were kept; ask its producer"
    if not letter.payload:
        return "had no content"
    return ""

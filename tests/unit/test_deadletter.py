"""Dead letters hold what is needed to understand and to repeat, and no more."""

from __future__ import annotations

import pytest

from tidegauge.schemas.codec import Codec, encode
from tidegauge.schemas.deadletter import MAX_COPY_BYTES, DeadLetter
from tidegauge.schemas.request import RequestEvent
from tidegauge.settings import Topics
from tidegauge.sinks.deadletter import letter_of_event, why_not_resend

NOW = 1_700_000_000.0
TOPICS = Topics()


def _letter(message: bytes) -> DeadLetter:
    _, refused = Codec(RequestEvent).decode(message)
    return letter_of_event(TOPICS.requests, 3, 17, refused[0], NOW)


def test_a_letter_names_origin_reason_and_field() -> None:
    letter = _letter(b'[{"id":"good","time":1700000000},{"id":"bad","time":1700000000000}]')
    assert (letter.topic, letter.partition, letter.offset, letter.index) == (TOPICS.requests, 3, 17, 1)
    assert (letter.reason, letter.field) == ("time_out_of_range", "time")
    assert letter.payload == b'{"id":"bad","time":1700000000000}'
    assert (letter.payload_size, letter.truncated, letter.time) == (33, False, NOW)
    assert Codec(DeadLetter).decode(encode(letter)) == ((letter,), [])


def test_a_long_message_is_kept_in_part_and_says_so() -> None:
    letter = _letter(b"x" * (MAX_COPY_BYTES + 1))
    assert len(letter.payload) == MAX_COPY_BYTES
    assert (letter.payload_size, letter.truncated) == (MAX_COPY_BYTES + 1, True)
    assert len(encode(letter)) < 2 * MAX_COPY_BYTES


@pytest.mark.parametrize("topic", [TOPICS.requests, TOPICS.feedback, TOPICS.judgements])
def test_a_whole_event_can_be_sent_again(topic: str) -> None:
    letter = _letter(b"no json")
    letter.topic = topic
    assert why_not_resend(letter, TOPICS) == ""


@pytest.mark.parametrize(
    ("letter", "said"),
    [
        (_letter(b"x" * (MAX_COPY_BYTES + 1)), "bytes were kept"),
        (_letter(b""), "no content"),
        (DeadLetter("latency", -1, -1, "store_refused", "", "conflict", NOW, b"{}", 2), "tidegauge rebuild"),
        (
            DeadLetter(
                "cost", -1, -1, "store_refused", "", "conflict", NOW, b'{"tags":{},"time":1700000040}', 29
            ),
            "tidegauge rebuild --from 1700000040 --to 1700000041",
        ),
        (DeadLetter(TOPICS.panes, 0, 0, "invalid_json", "", "", NOW, b"{}", 2), "topic of events"),
        (DeadLetter("elsewhere", 0, 0, "invalid_json", "", "", NOW, b"{}", 2), "topic of events"),
    ],
    ids=["truncated", "empty", "broken point", "point", "own topic", "foreign topic"],
)
def test_what_cannot_be_sent_again_is_said(letter: DeadLetter, said: str) -> None:
    assert said in why_not_resend(letter, TOPICS)

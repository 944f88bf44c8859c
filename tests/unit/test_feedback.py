from __future__ import annotations

import math
import re
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tidegauge.errors import InvalidEventError
from tidegauge.producers import Client, MemoryEmitter, decode_receipt, encode_receipt
from tidegauge.schemas.codec import Codec, encode
from tidegauge.schemas.common import MAX_TIME, MIN_TIME
from tidegauge.schemas.feedback import FeedbackEvent
from tidegauge.schemas.request import RequestEvent
from tidegauge.settings import load

_labels = st.text(max_size=300)


def _cut(text: str) -> str:
    return text[:256]


@pytest.fixture
def emitter() -> MemoryEmitter:
    return MemoryEmitter()


@pytest.fixture
def client(emitter: MemoryEmitter) -> Client:
    return Client(load(environ={}), service="svc", emitter=emitter)


@given(
    st.text(min_size=1, max_size=128),
    st.floats(MIN_TIME, MAX_TIME),
    st.tuples(_labels, _labels, _labels, _labels, _labels),
)
def test_a_receipt_gives_back_what_went_in(event_id: str, time: float, labels: tuple[str, ...]) -> None:
    service, provider, model, prompt, version = labels
    event = RequestEvent(event_id, time, service, provider, model, prompt=prompt, prompt_version=version)
    text = encode_receipt(event)
    assert re.fullmatch(r"[A-Za-z0-9_.-]+", text)
    receipt = decode_receipt(text)
    assert (receipt.request_id, receipt.request_time) == (event_id, time)
    assert (
        receipt.service,
        receipt.provider,
        receipt.model,
        receipt.prompt,
        receipt.prompt_version,
    ) == tuple(map(_cut, labels))


def test_a_receipt_of_a_usual_call_is_short() -> None:
    event = RequestEvent(
        "0" * 32, 1.7e9, "support-bot", "anthropic", "claude-sonnet-4-5", prompt="answer", prompt_version="12"
    )
    assert len(encode_receipt(event)) < 160


def test_a_label_with_lone_surrogates_still_gives_a_receipt() -> None:
    event = RequestEvent("x", 1.7e9, model="\ud800m")
    assert decode_receipt(encode_receipt(event)).model == "?m"


@given(st.text())
def test_no_text_makes_decoding_fail_otherwise_than_by_its_own_error(text: str) -> None:
    for candidate in (text, "tg1." + text):
        with pytest.raises(InvalidEventError, match="receipt") as caught:
            decode_receipt(candidate)
        assert caught.value.reason == "invalid_receipt"


@given(st.data())
def test_a_receipt_cut_off_anywhere_is_refused(data: st.DataObject) -> None:
    text = encode_receipt(RequestEvent("some-id", 1.7e9, "svc", "p", "m", prompt="x", prompt_version="1"))
    end = data.draw(st.integers(0, len(text) - 2))
    with pytest.raises(InvalidEventError):
        decode_receipt(text[:end])


@pytest.mark.parametrize(
    "text", ["", "tg2.xxxx", "tg1.", "tg1.ab cd", "tg1.äöü", "tg1." + "A" * 20_000, "TG1.xx"]
)
def test_what_is_no_receipt_is_refused_with_a_clear_text(text: str) -> None:
    with pytest.raises(InvalidEventError, match=r"^receipt: .+") as caught:
        decode_receipt(text)
    assert "\n" not in str(caught.value)


def sent(emitter: MemoryEmitter) -> FeedbackEvent:
    (event,) = emitter.events
    decoded, refused = Codec(FeedbackEvent).decode(encode(event))
    assert not refused
    return decoded[0]


def test_feedback_carries_the_dimensions_of_its_call(client: Client, emitter: MemoryEmitter) -> None:
    with client.call(provider="p", model="m", prompt="answer", prompt_version="2") as call:
        pass
    request = emitter.events.pop()
    assert client.record_feedback(call.receipt, thumb=False, comment="a private comment")
    feedback = sent(emitter)
    assert (feedback.request_id, feedback.request_time) == (request.id, request.time)
    assert (feedback.service, feedback.provider, feedback.model) == ("svc", "p", "m")
    assert (feedback.prompt, feedback.prompt_version) == ("answer", "2")
    assert (feedback.kind, feedback.score, feedback.comment_length) == ("thumb", -1.0, 17)
    assert b"private" not in encode(feedback)
    assert feedback.id != request.id


def test_feedback_with_an_id_alone_is_unattributed(client: Client, emitter: MemoryEmitter) -> None:
    assert client.record_feedback("some-request", rating=0.75)
    feedback = sent(emitter)
    assert (feedback.request_id, feedback.kind, feedback.score) == ("some-request", "rating", 0.75)
    assert (feedback.request_time, feedback.provider, feedback.model) == (None, "", "")
    assert feedback.service == "svc"


def test_a_thumb_and_a_rating_are_two_events(client: Client, emitter: MemoryEmitter) -> None:
    assert client.record_feedback("r", thumb=True, rating=1.0)
    assert [(e.kind, e.score) for e in emitter.events] == [("thumb", 1.0), ("rating", 1.0)]
    assert len({e.id for e in emitter.events}) == 2


@pytest.mark.parametrize(
    ("reference", "given", "reason"),
    [
        ("tg1.broken", {"thumb": True}, "invalid_receipt"),
        ("tg9.xxxx", {"thumb": True}, "invalid_receipt"),
        ("r", {}, "invalid_feedback"),
        ("r", {"rating": 5}, "invalid_feedback"),
        ("r", {"rating": -0.1}, "invalid_feedback"),
        ("r", {"rating": math.nan}, "invalid_feedback"),
        ("", {"thumb": True}, "invalid_feedback"),
        ("r" * 129, {"thumb": True}, "invalid_feedback"),
    ],
)
def test_feedback_that_means_nothing_is_counted_and_does_not_raise(
    client: Client, emitter: MemoryEmitter, reference: str, given: dict[str, Any], reason: str
) -> None:
    assert not client.record_feedback(reference, **given)
    assert not emitter.events
    assert emitter.refused == {reason: 1}

"""What the codec takes, what it refuses, and what it says of that."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from tidegauge.schemas.codec import MAX_EVENTS_PER_MESSAGE, MAX_MESSAGE_BYTES, Codec, encode
from tidegauge.schemas.common import MAX_LABEL_LENGTH
from tidegauge.schemas.deadletter import DeadLetter
from tidegauge.schemas.feedback import FeedbackEvent
from tidegauge.schemas.judgement import Judgement
from tidegauge.schemas.pane import PaneBatch, PaneSnapshot, SketchSnapshot
from tidegauge.schemas.request import GuardrailResult, RequestEvent

TIME = 1_700_000_000
GOOD = b'{"id":"good","time":1700000000}'
CANARY = "canary-7f3a"

requests = Codec(RequestEvent)


def with_field(name: str, value: bytes) -> bytes:
    return b'{"id":"a","time":1700000000,"%s":%s}' % (name.encode(), value)


def refusal(message: bytes | None, codec: Codec[Any] = requests) -> tuple[str, str, str]:
    events, refused = codec.decode(message)
    assert list(events) == []
    (only,) = refused
    assert only.index is None
    assert only.raw == (message or b"")
    return only.error.reason, only.error.field, only.error.expected


@pytest.mark.parametrize(
    "event",
    [
        RequestEvent(
            "r", TIME + 0.25, service="s", cost=12, guardrails=[GuardrailResult("pii", "input", True)]
        ),
        FeedbackEvent("f", TIME, "r", "thumb", -1.0),
        Judgement("j", TIME, "r", TIME, "helpful", "scored", "judge", "hash", 0.25, score=0.5),
        DeadLetter("t", 0, 7, "invalid_json", "", "valid JSON", TIME, b"\x00\xff", 2),
        PaneBatch(
            "t",
            3,
            0,
            9,
            1.5,
            [PaneSnapshot("v", ("k",), 60, [1, 2], [SketchSnapshot(1, 5, 5, 5, 0, [7], [1])])],
        ),
    ],
)
def test_what_is_encoded_decodes_to_the_same(event: msgspec.Struct) -> None:
    assert Codec(type(event)).decode(encode(event)) == ((event,), [])


def test_names_on_the_wire_are_opentelemetrys() -> None:
    event = RequestEvent("r", TIME, provider="anthropic", model="m", input_tokens=3, prompt="p")
    assert msgspec.json.decode(encode(event)) == {
        "id": "r",
        "time": TIME,
        "gen_ai.provider.name": "anthropic",
        "gen_ai.request.model": "m",
        "gen_ai.usage.input_tokens": 3,
        "gen_ai.prompt.name": "p",
    }


def test_unknown_fields_are_harmless() -> None:
    events, refused = requests.decode(with_field("some.future.field", b'{"deep":[1,null,"x"]}'))
    assert refused == []
    assert events[0].id == "a"


@pytest.mark.parametrize(
    ("field", "value", "reason", "expected"),
    [
        ("id", b'""', "out_of_range", "length >= 1"),
        ("id", b"7", "wrong_type", "Expected `str`, got `int`"),
        ("id", b'"%s"' % (b"x" * 129), "out_of_range", "length <= 128"),
        ("time", b"null", "wrong_type", "Expected `float`, got `null`"),
        ("time", b'"2024-01-01T00:00:00Z"', "wrong_type", "Expected `float`, got `str`"),
        ("time", b"1700000000000", "time_out_of_range", "milliseconds"),
        ("time", b"1700000000000000000", "time_out_of_range", "milliseconds"),
        ("time", b"-5", "time_out_of_range", "Unix seconds"),
        ("time", b"0", "time_out_of_range", "Unix seconds"),
        ("time", b"NaN", "not_finite", "a finite number"),
        ("time", b"-Infinity", "not_finite", "a finite number"),
        ("time", b"1e400", "out_of_range", "out of range"),
        ("service.name", b'"%s"' % (b"x" * (MAX_LABEL_LENGTH + 1)), "out_of_range", "length <= 256"),
        ("service.name", b'"\xff"', "invalid_text", "Unicode"),
        ("service.name", b'"\\ud800"', "invalid_text", "Unicode"),
        ("gen_ai.usage.input_tokens", b"-1", "out_of_range", ">= 0"),
        ("gen_ai.usage.input_tokens", b"1.5", "wrong_type", "got `float`"),
        ("gen_ai.usage.input_tokens", b'"12"', "wrong_type", "got `str`"),
        ("gen_ai.usage.input_tokens", b"true", "wrong_type", "got `bool`"),
        ("gen_ai.usage.input_tokens", b"9" * 400, "out_of_range", "<= 1000000000000"),
        ("gen_ai.usage.input_tokens", b"9" * 5000, "out_of_range", "out of range"),
        ("gen_ai.client.operation.duration", b"-0.1", "out_of_range", ">= 0.0"),
        ("gen_ai.client.operation.duration", b"Infinity", "not_finite", "a finite number"),
        ("tidegauge.cost.nano_usd", b"0.5", "wrong_type", "got `float`"),
        ("schema_version", b"0", "out_of_range", ">= 1"),
        ("schema_version", b"2", "schema_version", "upgrade the workers"),
        (
            "gen_ai.response.finish_reasons",
            b"[%s]" % b",".join([b'"a"'] * 17),
            "out_of_range",
            "length <= 16",
        ),
    ],
)
def test_a_refusal_names_the_field_and_what_was_expected(
    field: str, value: bytes, reason: str, expected: str
) -> None:
    found = refusal(with_field(field, value))
    assert found[:2] == (reason, field)
    assert expected in found[2]


@pytest.mark.parametrize(
    ("guardrail", "reason", "field", "expected"),
    [
        (b'{"stage":"input","triggered":true}', "missing_field", "name", "is required"),
        (
            b'{"name":"pii","stage":"%s","triggered":true}' % CANARY.encode(),
            "wrong_type",
            "stage",
            "one of input, output, retrieval, tool",
        ),
        (b'{"name":"pii","stage":"input","triggered":true,"score":NaN}', "not_finite", "score", "finite"),
        (b'{"name":"pii","stage":"input","triggered":true,"score":2}', "out_of_range", "score", "<= 1.0"),
        (b'{"name":"pii","stage":"input","triggered":1}', "wrong_type", "triggered", "Expected `bool`"),
    ],
)
def test_a_nested_field_is_named_with_its_place(
    guardrail: bytes, reason: str, field: str, expected: str
) -> None:
    good = b'{"name":"pii","stage":"input","triggered":false}'
    found = refusal(with_field("tidegauge.guardrails", b"[%s,%s]" % (good, guardrail)))
    assert found[:2] == (reason, f"tidegauge.guardrails[1].{field}")
    assert expected in found[2]


@pytest.mark.parametrize(
    ("message", "reason", "field"),
    [
        (None, "empty", ""),
        (b"", "invalid_json", ""),
        (b"null", "wrong_type", ""),
        (b"12", "wrong_type", ""),
        (b"{}", "missing_field", "id"),
        (b'{"id":"a"}', "missing_field", "time"),
        (b"[]", "array_size", ""),
        (b'{"id":"a","time":1700000000', "invalid_json", ""),
        (b"[" + GOOD + b",", "invalid_json", ""),
        (b"[" + GOOD + b",]", "invalid_json", ""),
        (b"[" + GOOD + b"] trailing", "invalid_json", ""),
        (b'[{"id":"never closed}]', "invalid_json", ""),
        (b"[" * 100_000, "too_deep", ""),
        (with_field("x", b"[" * 5_000 + b"]" * 5_000), "too_deep", ""),
        (b"\x00\x00\x00\x00\x07binary", "invalid_json", ""),
        (b"\xef\xbb\xbf" + GOOD, "invalid_json", ""),
        (b" " * (MAX_MESSAGE_BYTES + 1), "too_large", ""),
        (b"[" + b",".join([GOOD] * (MAX_EVENTS_PER_MESSAGE + 1)) + b"]", "array_size", ""),
    ],
)
def test_a_message_that_is_no_event_is_refused_as_a_whole(
    message: bytes | None, reason: str, field: str
) -> None:
    assert refusal(message)[:2] == (reason, field)


@pytest.mark.parametrize(
    ("bad", "reason"),
    [
        (b'{"id":"a","time":NaN}', "not_finite"),
        (b'{"id":"a","time":1700000000000}', "time_out_of_range"),
        (b'{"id":"a","time":1700000000,"x":' + b"[" * 5_000 + b"]" * 5_000 + b"}", "too_deep"),
        (b'{"id":"a","time":1700000000,"service.name":"\xff"}', "invalid_text"),
        (b'{"id":"a","time":1700000000,"service.name":"\\ud800"}', "invalid_text"),
        (b'{"id":"a","time":1700000000,"service.name":}', "invalid_json"),
        (b'{"id":"}],[{","time":NaN}', "not_finite"),
        (b'{"id":"\\"],","time":Infinity}', "not_finite"),
        (b"null", "wrong_type"),
        (b"[]", "wrong_type"),
        (b'{"time":1700000000}', "missing_field"),
    ],
)
def test_a_bad_event_costs_that_event_alone(bad: bytes, reason: str) -> None:
    events, refused = requests.decode(b"[ %s,\n%s , %s]" % (GOOD, bad, GOOD))
    assert [event.id for event in events] == ["good", "good"]
    (only,) = refused
    assert (only.index, only.error.reason, only.raw) == (1, reason, bad)


def test_a_full_array_is_taken() -> None:
    events, refused = requests.decode(b"[" + b",".join([GOOD] * MAX_EVENTS_PER_MESSAGE) + b"]")
    assert (len(events), refused) == (MAX_EVENTS_PER_MESSAGE, [])


@pytest.mark.parametrize(
    ("kind", "score", "taken"),
    [
        ("thumb", 1, True),
        ("thumb", -1, True),
        ("thumb", 0.5, False),
        ("rating", 0, True),
        ("rating", 0.5, True),
        ("rating", -1, False),
        ("rating", 1.5, False),
    ],
)
def test_a_score_must_be_one_that_its_kind_has(kind: str, score: float, *, taken: bool) -> None:
    message = msgspec.json.encode({"id": "f", "time": TIME, "request_id": "r", "kind": kind, "score": score})
    events, refused = Codec(FeedbackEvent).decode(message)
    assert len(events) == taken
    assert [r.error.field for r in refused] == ([] if taken else ["score"])


@pytest.mark.parametrize(
    "message",
    [
        with_field("tidegauge.guardrails", b'[{"name":"n","stage":"%s","triggered":true}]' % CANARY.encode()),
        with_field("schema_version", b'"%s"' % CANARY.encode()),
        with_field("gen_ai.usage.input_tokens", b'"%s"' % CANARY.encode()),
        with_field(CANARY, b"NaN"),
        with_field(CANARY + "\\ud800", b"1"),
        with_field("user.id", b'{"%s":NaN}' % CANARY.encode()),
        with_field("service.name", b'"%s\xff"' % CANARY.encode()),
        with_field("service.name", b'"%s' % CANARY.encode()),
        CANARY.encode(),
        b'"%s"' % CANARY.encode(),
        b'{"id":"a","time":"%s"}' % CANARY.encode(),
    ],
)
def test_no_value_and_no_name_of_the_producers_own_appears_in_a_refusal(message: bytes) -> None:
    _, refused = requests.decode(message)
    assert refused
    for only in refused:
        assert CANARY not in str(only.error)
        assert CANARY not in only.error.field
        assert CANARY not in only.error.reason


def test_a_tag_of_another_type_does_not_show_itself() -> None:
    message = encode(PaneBatch("t", 0, 0, 0, 0.0, [])).replace(b'"panes"', b'"%s"' % CANARY.encode(), 1)
    reason, _, expected = refusal(message, Codec(PaneBatch))
    assert reason == "wrong_type"
    assert CANARY not in expected

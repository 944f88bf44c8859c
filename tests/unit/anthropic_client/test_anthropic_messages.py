"""The reader of response bytes: any cut of them means the same, and no bytes break it."""

from __future__ import annotations

import base64
import json
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support.messages_replies import aws_frame, message, sse_events, thinking, tool_use, usage
from tidegauge.producers.anthropic_messages import (
    AWS_EVENT_STREAM,
    SSE,
    Answer,
    BodyReader,
    prompt_text,
)

JSON_BODY = "application/json"


def read(content_type: str, *pieces: bytes, keep_text: bool = True) -> Answer:
    answer = Answer(keep_text=keep_text)
    reader = BodyReader(answer, content_type)
    for piece in pieces:
        reader.feed(piece)
    reader.end()
    return answer


def facts(answer: Answer) -> dict[str, Any]:
    names = ("id", "model", "stop_reason", "error", "content_begun", "stopped", "unreadable")
    return {name: getattr(answer, name) for name in names} | {
        "usage": answer.usage(),
        "text": "".join(answer.text),
    }


def as_sse(events: list[dict[str, Any]], end: str = "\n") -> bytes:
    return "".join(
        f"event: {event['type']}{end}data: {json.dumps(event, ensure_ascii=False)}{end}{end}"
        for event in events
    ).encode()


def as_aws(events: list[dict[str, Any]]) -> bytes:
    return b"".join(
        aws_frame(
            json.dumps({"bytes": base64.b64encode(json.dumps(event).encode()).decode()}).encode(),
            {":message-type": "event", ":event-type": "chunk", ":content-type": "application/json"},
        )
        for event in events
    )


REPLY = message(
    content=[thinking(), {"type": "text", "text": "Flut — 1,5 m 🌊 \u2028 bald."}, tool_use()],
    usage=usage(10, 50, cache_read=3, cache_5m=4, cache_1h=5, thinking=6),
    stop_reason="tool_use",
    message_id="msg_1",
    model="claude-test-1",
)
EVENTS = list(sse_events(REPLY))
EXPECTED = {
    "id": "msg_1",
    "model": "claude-test-1",
    "stop_reason": "tool_use",
    "error": "",
    "unreadable": 0,
    "text": "Flut — 1,5 m 🌊 \u2028 bald.",
    "usage": {
        "input_tokens": 22,
        "output_tokens": 50,
        "cache_read_input_tokens": 3,
        "cache_creation_input_tokens": 9,
        "cache_creation_1h_input_tokens": 5,
        "reasoning_output_tokens": 6,
    },
}


def test_a_message_says_the_same_in_one_piece_and_in_a_stream() -> None:
    whole = facts(read(JSON_BODY, json.dumps(REPLY.message).encode()))
    streamed = facts(read(f"{SSE}; charset=utf-8", as_sse(EVENTS)))
    assert {name: whole[name] for name in EXPECTED} == EXPECTED
    assert {name: streamed[name] for name in EXPECTED} == EXPECTED
    assert (streamed["content_begun"], streamed["stopped"]) == (True, True)


@pytest.mark.parametrize(
    ("content_type", "body"),
    [
        (SSE, as_sse(EVENTS)),
        (SSE, as_sse(EVENTS, "\r\n")),
        (AWS_EVENT_STREAM, as_aws(EVENTS)),
        (JSON_BODY, json.dumps(REPLY.message).encode()),
    ],
    ids=["lf", "crlf", "aws", "json"],
)
@given(cuts=st.lists(st.integers(0, 4_000), max_size=30))
def test_however_the_bytes_are_cut_they_mean_the_same(
    content_type: str, body: bytes, cuts: list[int]
) -> None:
    marks = sorted({0, len(body), *(cut % len(body) for cut in cuts)})
    pieces = [body[start:end] for start, end in pairwise(marks)]
    answer = facts(read(content_type, *pieces))
    assert {name: answer[name] for name in EXPECTED} == EXPECTED


def test_one_byte_at_a_time_means_the_same() -> None:
    for content_type, body in [(SSE, as_sse(EVENTS, "\r\n")), (AWS_EVENT_STREAM, as_aws(EVENTS))]:
        pieces = [body[at : at + 1] for at in range(len(body))]
        assert facts(read(content_type, *pieces)) == facts(read(content_type, body))


@given(
    content_type=st.sampled_from([SSE, AWS_EVENT_STREAM, JSON_BODY, ""]),
    pieces=st.lists(st.binary(max_size=60) | st.just(as_sse(EVENTS[:3])) | st.just(as_aws(EVENTS[:3]))),
)
def test_no_bytes_break_the_reader(content_type: str, pieces: list[bytes]) -> None:
    read(content_type, *pieces).usage()


@given(
    data=st.recursive(
        st.none() | st.booleans() | st.integers() | st.text(max_size=5),
        lambda inner: (
            st.lists(inner, max_size=3)
            | st.dictionaries(
                st.sampled_from(["type", "message", "usage", "delta", "input_tokens", "iterations", "error"]),
                inner,
            )
        ),
        max_leaves=8,
    ),
    event=st.sampled_from(["message_start", "message_delta", "content_block_delta", "error", "ping", "new"]),
)
def test_no_event_breaks_the_reader(event: str, data: Any) -> None:
    answer = read(SSE, f"event: {event}\ndata: {json.dumps(data)}\n\n".encode())
    answer.usage()
    assert answer.error


def test_before_the_final_count_the_output_is_unknown() -> None:
    answer = read(SSE, as_sse(EVENTS[:6]))
    tokens = answer.usage()
    assert tokens is not None
    assert (tokens["input_tokens"], tokens["output_tokens"]) == (22, None)
    assert answer.error == "incomplete_stream"


def test_without_usage_nothing_is_known() -> None:
    assert read(JSON_BODY, b'{"id": "msg_1", "content": []}').usage() is None
    assert read(SSE, b"").usage() is None


def test_a_split_without_its_total_still_counts() -> None:
    body = {
        "usage": {"input_tokens": 1, "output_tokens": 2, "cache_creation": {"ephemeral_1h_input_tokens": 7}}
    }
    tokens = read(JSON_BODY, json.dumps(body).encode()).usage()
    assert tokens is not None
    assert (tokens["input_tokens"], tokens["cache_creation_input_tokens"]) == (8, 7)


def test_compactions_are_added_and_other_models_tokens_are_not() -> None:
    more = {"input_tokens": 100, "output_tokens": 10, "cache_read_input_tokens": 1_000}
    iterations = [
        {"type": "message", "input_tokens": 10, "output_tokens": 5},
        {"type": "compaction", "cache_creation_input_tokens": 0, **more},
        {"type": "advisor_message", "model": "claude-other", "cache_creation_input_tokens": 0, **more},
    ]
    tokens = read(JSON_BODY, json.dumps({"usage": usage(10, 5, iterations=iterations)}).encode()).usage()
    assert tokens is not None
    assert (tokens["input_tokens"], tokens["output_tokens"]) == (10 + 1_100, 5 + 10)
    assert tokens["cache_read_input_tokens"] == 1_000


def test_comments_pings_and_unknown_fields_are_skipped() -> None:
    noise = b': keep-alive\nid: 7\nretry: 10\nevent: ping\ndata: {"type": "ping"}\n\n'
    assert facts(read(SSE, noise + as_sse(EVENTS) + noise)) == facts(read(SSE, as_sse(EVENTS)))


def test_data_of_several_lines_is_one_event() -> None:
    answer = read(SSE, b'event: error\ndata: {"error":\ndata: {"type": "api_error"}}\n\n')
    assert answer.error == "api_error"


def test_text_is_not_kept_unless_asked_for() -> None:
    for content_type, body in [(SSE, as_sse(EVENTS)), (JSON_BODY, json.dumps(REPLY.message).encode())]:
        assert read(content_type, body, keep_text=False).text == []


def test_an_aws_exception_is_the_error() -> None:
    frame = aws_frame(b"{}", {":message-type": "exception", ":exception-type": "throttlingException"})
    assert read(AWS_EVENT_STREAM, as_aws(EVENTS[:4]), frame).error == "throttlingException"


def test_bytes_that_are_no_aws_frames_are_counted_once() -> None:
    answer = read(AWS_EVENT_STREAM, b"\xff" * 100, as_aws(EVENTS))
    assert (answer.unreadable, answer.id) == (1, "")


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        ({"messages": [{"role": "user", "content": "Hi"}]}, "Hi"),
        (
            {
                "system": "Be brief.",
                "messages": [
                    {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "What is it?"}]},
                    {"role": "assistant", "content": "A tide."},
                    {"role": "user", "content": [{"type": "tool_result", "content": "left out"}]},
                ],
            },
            "system: Be brief.\n\nuser: What is it?\n\nassistant: A tide.",
        ),
        ({"messages": iter(())}, ""),
        (None, ""),
    ],
)
def test_the_prompt_is_the_text_of_its_messages(body: Any, expected: str) -> None:
    assert prompt_text(body) == expected

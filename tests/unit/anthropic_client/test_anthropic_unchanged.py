"""Whatever an application does with its client, it sees the same with and without instrumentation."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.support.instrumented import (
    REQUEST,
    Recorder,
    Tide,
    async_client,
    async_outcome,
    outcome,
    sync_client,
)
from tests.support.messages_api import (
    MessagesAPI,
    Reply,
    Request,
    error,
    message,
    raw,
    thinking,
    tool_use,
    usage,
)

REPLIES: dict[str, Callable[[], list[Reply]]] = {
    "text": lambda: [message(message_id="msg_1")],
    "compressed": lambda: [message(message_id="msg_1", compress=True)],
    "structured": lambda: [message('{"height": 1.5}', message_id="msg_1")],
    "truncated structured": lambda: [message('{"height": 1.', stop_reason="max_tokens", message_id="msg_1")],
    "tools": lambda: [message(content=[tool_use()], stop_reason="tool_use", message_id="msg_1")],
    "thinking": lambda: [
        message(content=[thinking(), {"type": "text", "text": "1.5 m"}], message_id="msg_1")
    ],
    "cache": lambda: [message(usage=usage(cache_read=100, cache_5m=20, cache_1h=3), message_id="msg_1")],
    "refusal": lambda: [message("", stop_reason="refusal", message_id="msg_1")],
    "retried": lambda: [
        error(429, retry_after=0.001),
        error(529, retry_after=0.001),
        message(message_id="m"),
    ],
    "overloaded": lambda: [error(529, retry_after=0.001) for _ in range(3)],
    "invalid": lambda: [error(400)],
    "not json": lambda: [raw(b'{"id": "msg_1", "usage": {"inp')],
    "error event": lambda: [message(message_id="msg_1", cut_after=4, cut="error")],
    "bad event": lambda: [message(message_id="msg_1", cut_after=4, cut="bad_json")],
    "ended early": lambda: [message(message_id="msg_1", cut_after=4, cut="end")],
    "broken off": lambda: [message(message_id="msg_1", cut_after=4, cut="reset")],
}


def raw_stream(client: Any) -> Any:
    response = client.messages.with_raw_response.create(stream=True, **REQUEST)
    return response.retries_taken, list(response.parse())


def open_response(client: Any) -> Any:
    with client.messages.with_streaming_response.create(**REQUEST) as response:
        return response.status_code, response.parse()


def open_lines(client: Any) -> Any:
    with client.messages.with_streaming_response.create(stream=True, **REQUEST) as response:
        return list(response.iter_lines())


def helper_events(client: Any) -> Any:
    with client.messages.stream(**REQUEST) as stream:
        return list(stream), stream.get_final_message()


def helper_text(client: Any) -> Any:
    with client.messages.stream(**REQUEST) as stream:
        return list(stream.text_stream), stream.get_final_text()


def helper_structured(client: Any) -> Any:
    with client.messages.stream(output_format=Tide, **REQUEST) as stream:
        return stream.get_final_message()


def beta_helper(client: Any) -> Any:
    with client.beta.messages.stream(**REQUEST) as stream:
        return list(stream), stream.get_final_message()


WAYS: dict[str, Callable[[Any], Any]] = {
    "create": lambda client: client.messages.create(**REQUEST),
    "create stream": lambda client: list(client.messages.create(stream=True, **REQUEST)),
    "parse": lambda client: client.messages.parse(output_format=Tide, **REQUEST),
    "raw": lambda client: client.messages.with_raw_response.create(**REQUEST).parse(),
    "raw text": lambda client: client.messages.with_raw_response.create(**REQUEST).text(),
    "raw stream": raw_stream,
    "open response": open_response,
    "open lines": open_lines,
    "helper events": helper_events,
    "helper text": helper_text,
    "helper structured": helper_structured,
    "beta": lambda client: client.beta.messages.create(betas=["x-1"], **REQUEST),
    "beta stream": lambda client: list(client.beta.messages.create(stream=True, **REQUEST)),
    "beta parse": lambda client: client.beta.messages.parse(output_format=Tide, **REQUEST),
    "beta helper": beta_helper,
    "client raw": lambda client: client.with_raw_response.messages.create(**REQUEST).parse(),
    "options": lambda client: client.with_options(timeout=5).messages.create(**REQUEST),
}


@pytest.fixture(scope="module")
def api() -> Iterator[MessagesAPI]:
    with MessagesAPI() as server:
        yield server


def _stable(request: Request) -> Any:
    headers = {name: value for name, value in request.headers.items() if "idempotency" not in name}
    return request.path, headers, request.body


@pytest.mark.parametrize("reply", REPLIES)
@pytest.mark.parametrize("way", WAYS)
def test_the_app_sees_the_same_and_one_event_is_recorded(api: MessagesAPI, way: str, reply: str) -> None:
    recorder = Recorder()
    with sync_client(api) as plain, sync_client(api, recorder) as instrumented:
        start = len(api.requests)
        api.script(*REPLIES[reply]())
        expected = outcome(WAYS[way], plain)
        middle = len(api.requests)
        api.script(*REPLIES[reply]())
        assert outcome(WAYS[way], instrumented) == expected
    sent, again = api.requests[start:middle], api.requests[middle:]
    assert sent, expected
    assert [_stable(request) for request in again] == [_stable(request) for request in sent]
    event = recorder.event
    assert event.model == REQUEST["model"]
    assert event.stream == ("stream" in way or "lines" in way or "helper" in way)


async def async_raw_stream(client: Any) -> Any:
    response = await client.messages.with_raw_response.create(stream=True, **REQUEST)
    return [event async for event in await response.parse()]


async def async_open_response(client: Any) -> Any:
    async with client.messages.with_streaming_response.create(**REQUEST) as response:
        return response.status_code, await response.parse()


async def async_open_lines(client: Any) -> Any:
    async with client.messages.with_streaming_response.create(stream=True, **REQUEST) as response:
        return [line async for line in response.iter_lines()]


async def async_create_stream(client: Any) -> Any:
    return [event async for event in await client.messages.create(stream=True, **REQUEST)]


async def async_helper_events(client: Any) -> Any:
    async with client.messages.stream(**REQUEST) as stream:
        return [event async for event in stream], await stream.get_final_message()


async def async_helper_text(client: Any) -> Any:
    async with client.messages.stream(**REQUEST) as stream:
        return [text async for text in stream.text_stream], await stream.get_final_text()


async def async_beta_helper(client: Any) -> Any:
    async with client.beta.messages.stream(**REQUEST) as stream:
        return [event async for event in stream], await stream.get_final_message()


ASYNC_WAYS: dict[str, Callable[[Any], Any]] = {
    "create": lambda client: client.messages.create(**REQUEST),
    "create stream": async_create_stream,
    "parse": lambda client: client.messages.parse(output_format=Tide, **REQUEST),
    "raw stream": async_raw_stream,
    "open response": async_open_response,
    "open lines": async_open_lines,
    "helper events": async_helper_events,
    "helper text": async_helper_text,
    "beta": lambda client: client.beta.messages.create(**REQUEST),
    "beta helper": async_beta_helper,
    "options": lambda client: client.with_options(timeout=5).messages.create(**REQUEST),
}


@pytest.mark.parametrize("reply", REPLIES)
@pytest.mark.parametrize("way", ASYNC_WAYS)
async def test_an_async_app_sees_the_same_and_one_event_is_recorded(
    api: MessagesAPI, way: str, reply: str
) -> None:
    recorder = Recorder()
    async with async_client(api) as plain, async_client(api, recorder) as instrumented:
        api.script(*REPLIES[reply]())
        expected = await async_outcome(ASYNC_WAYS[way], plain)
        api.script(*REPLIES[reply]())
        assert await async_outcome(ASYNC_WAYS[way], instrumented) == expected
    assert recorder.event.stream == ("stream" in way or "lines" in way or "helper" in way)

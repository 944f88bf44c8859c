"""What is recorded of streams: read to the end, left early, failed, dropped."""

from __future__ import annotations

import asyncio
import gc
import weakref
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any

import anthropic
import httpx2
import pytest

from tests.support.instrumented import REQUEST, Recorder, async_client, sync_client
from tests.support.messages_api import MessagesAPI, Reply, message, thinking, tool_use, usage
from tidegauge.producers.anthropic import receipt_of
from tidegauge.producers.context import context
from tidegauge.producers.receipt import decode_receipt


def test_a_stream_read_to_its_end_is_recorded_with_its_usage(
    api: MessagesAPI, recorder: Recorder, client: anthropic.Anthropic
) -> None:
    api.script(message(usage=usage(10, 50, cache_read=100, cache_1h=30, thinking=20), message_id="msg_7"))
    with client.messages.stream(**REQUEST) as stream:
        final = stream.get_final_message()
    event = recorder.event
    assert (event.stream, event.response_id, event.finish_reasons) == (True, "msg_7", ["end_turn"])
    assert (event.input_tokens, event.output_tokens, event.reasoning_output_tokens) == (140, 50, 20)
    assert (event.cache_creation_input_tokens, event.cache_creation_1h_input_tokens) == (30, 30)
    assert event.error == ""
    receipt = receipt_of(final)
    assert receipt is not None
    assert decode_receipt(receipt).request_id == event.id


def test_the_last_cumulative_usage_counts(
    api: MessagesAPI, recorder: Recorder, client: anthropic.Anthropic
) -> None:
    # With server tools the input grows while the model answers.
    later = {"input_tokens": 900, "cache_read_input_tokens": 0, "output_tokens": 70}
    api.script(message(usage=usage(10, 5, cache_read=40, cache_5m=8), delta_usage=later))
    list(client.messages.create(stream=True, **REQUEST))
    assert (recorder.event.input_tokens, recorder.event.output_tokens) == (900 + 8, 70)


@pytest.mark.parametrize(
    "content",
    [
        [{"type": "text", "text": "1.5 m"}],
        [tool_use()],
        [thinking(), {"type": "text", "text": "1.5 m"}],
    ],
)
def test_the_first_chunk_is_the_first_piece_of_content(
    api: MessagesAPI, recorder: Recorder, client: anthropic.Anthropic, content: list[dict[str, Any]]
) -> None:
    held = 3  # message_start, content_block_start and ping are sent before anything is generated
    reply = message(content=content, hold_after=held)
    api.script(reply)
    with context() as scope, client.messages.create(stream=True, **REQUEST) as stream:
        next(stream)
        next(stream)
        call = scope.current
        assert call is not None
        assert call._event.time_to_first_chunk is None
        reply.release.set()
        list(stream)
    first, total = recorder.event.time_to_first_chunk, recorder.event.duration
    assert first is not None
    assert total is not None
    assert 0 < first <= total


def abandon_by_break(client: Any) -> None:
    for _ in client.messages.create(stream=True, **REQUEST):
        break


def abandon_by_close(client: Any) -> None:
    stream = client.messages.create(stream=True, **REQUEST)
    next(stream)
    stream.close()


def abandon_by_leaving(client: Any) -> None:
    with client.messages.stream(**REQUEST) as stream:
        next(stream.text_stream)


def abandon_by_error(client: Any) -> None:
    with suppress(KeyError), client.messages.stream(**REQUEST) as stream:
        next(stream.text_stream)
        raise KeyError("the application's own")


def abandon_open_response(client: Any) -> None:
    with client.messages.with_streaming_response.create(stream=True, **REQUEST) as response:
        next(response.iter_lines())


def abandon_after_deltas(client: Any) -> None:
    stream = client.messages.create(stream=True, **REQUEST)
    for event in stream:
        if event.type == "content_block_delta":
            break
    del stream, event


LEFT: list[Callable[[Any], None]] = [
    abandon_by_break,
    abandon_by_close,
    abandon_by_leaving,
    abandon_by_error,
    abandon_open_response,
    abandon_after_deltas,
]


@pytest.mark.parametrize("leave", LEFT)
def test_a_stream_left_early_is_recorded_once_and_is_no_error(
    api: MessagesAPI, recorder: Recorder, client: anthropic.Anthropic, leave: Callable[[Any], None]
) -> None:
    reply = message(hold_after=4, usage=usage(10, 50))
    api.script(reply)
    leave(client)
    event = recorder.event
    assert event.error == ""
    assert event.finish_reasons == []
    # What message_start says of the input is known; its output tokens are a placeholder, not a count.
    assert (event.input_tokens, event.output_tokens) == (10, None)
    reply.release.set()
    gc.collect()
    assert len(recorder.events) == 1


def test_a_stream_dropped_unread_is_recorded(
    api: MessagesAPI, recorder: Recorder, client: anthropic.Anthropic
) -> None:
    api.script(message(hold_after=1))
    stream = client.messages.create(stream=True, **REQUEST)
    assert recorder.events == []
    del stream
    assert (recorder.event.input_tokens, recorder.event.error) == (None, "")


def test_watching_does_not_keep_a_response_alive(
    api: MessagesAPI, recorder: Recorder, client: anthropic.Anthropic
) -> None:
    gc.disable()
    try:
        for read in (0, 1, 100):
            stream = client.messages.create(stream=True, **REQUEST)
            response = weakref.ref(stream.response)
            for _, event in zip(range(read), stream, strict=False):
                del event
            del stream
            assert response() is None, read
    finally:
        gc.enable()
    assert len(recorder.events) == 3


def test_a_response_that_was_read_is_as_it_would_have_been(
    api: MessagesAPI, client: anthropic.Anthropic
) -> None:
    with sync_client(api) as plain:
        before = set(vars(plain.messages.create(stream=True, **REQUEST).response))
    stream = client.messages.create(stream=True, **REQUEST)
    assert set(vars(stream.response)) > before
    list(stream)
    assert set(vars(stream.response)) - before <= {"_decoder", "_num_bytes_downloaded"}


def test_the_clock_of_a_stream_stops_at_its_last_event(
    api: MessagesAPI, recorder: Recorder, client: anthropic.Anthropic
) -> None:
    stream = client.messages.create(stream=True, **REQUEST)
    for event in stream:
        if event.type == "message_stop":
            break
    assert recorder.event.finish_reasons == ["end_turn"]
    stream.close()
    assert len(recorder.events) == 1


FAULTS: list[tuple[Callable[[], Reply], str]] = [
    (lambda: message(cut_after=4, cut="error"), "overloaded_error"),
    (lambda: message(cut_after=4, cut="bad_json"), "json.decoder.JSONDecodeError"),
    (lambda: message(cut_after=4, cut="end"), "incomplete_stream"),
    (lambda: message(cut_after=4, cut="reset"), "httpx2.RemoteProtocolError"),
]


@pytest.mark.parametrize(("reply", "kind"), FAULTS)
def test_a_stream_that_fails_is_an_error_with_what_is_known(
    api: MessagesAPI,
    recorder: Recorder,
    client: anthropic.Anthropic,
    reply: Callable[[], Reply],
    kind: str,
) -> None:
    api.script(reply())
    with suppress(Exception):
        list(client.messages.create(stream=True, **REQUEST))
    event = recorder.event
    assert (event.error, event.input_tokens, event.output_tokens) == (kind, 10, None)
    assert event.time_to_first_chunk is not None


@pytest.mark.parametrize(("reply", "kind"), FAULTS)
async def test_an_async_stream_that_fails_is_an_error(
    api: MessagesAPI, recorder: Recorder, reply: Callable[[], Reply], kind: str
) -> None:
    api.script(reply())
    async with async_client(api, recorder) as client:
        with suppress(Exception):
            async with client.messages.stream(**REQUEST) as stream:
                await stream.until_done()
    assert (recorder.event.error, recorder.event.input_tokens) == (kind, 10)


def test_a_stream_that_falls_silent_times_out(api: MessagesAPI, recorder: Recorder) -> None:
    api.script(message(hold_after=4))
    with sync_client(api, recorder, timeout=0.1) as client, pytest.raises(httpx2.ReadTimeout):
        list(client.messages.create(stream=True, **REQUEST))
    assert (recorder.event.error, recorder.event.input_tokens) == ("httpx2.ReadTimeout", 10)


def test_an_unrelated_error_that_is_being_handled_is_not_the_streams(
    api: MessagesAPI, recorder: Recorder, client: anthropic.Anthropic
) -> None:
    api.script(message(hold_after=4))
    stream = client.messages.create(stream=True, **REQUEST)
    next(stream)
    try:
        raise KeyError("something else")
    except KeyError:
        stream.close()
    assert recorder.event.error == ""


async def test_an_async_stream_is_recorded_with_its_usage(api: MessagesAPI, recorder: Recorder) -> None:
    api.script(message(usage=usage(10, 50, cache_read=100)))
    async with async_client(api, recorder) as client, client.messages.stream(**REQUEST) as stream:
        assert [text async for text in stream.text_stream] == ["The tid", "e is ri", "sing."]
    event = recorder.event
    assert (event.input_tokens, event.output_tokens, event.finish_reasons) == (110, 50, ["end_turn"])
    assert event.time_to_first_chunk is not None


async def leave_by_break(client: anthropic.AsyncAnthropic) -> None:
    async for _ in await client.messages.create(stream=True, **REQUEST):
        break


async def leave_helper(client: anthropic.AsyncAnthropic) -> None:
    async with client.messages.stream(**REQUEST) as stream:
        await anext(stream.text_stream)


async def leave_by_close(client: anthropic.AsyncAnthropic) -> None:
    stream = await client.messages.create(stream=True, **REQUEST)
    await anext(stream)
    await stream.close()


@pytest.mark.parametrize("leave", [leave_by_break, leave_helper, leave_by_close])
async def test_an_async_stream_left_early_is_recorded_once(
    api: MessagesAPI,
    recorder: Recorder,
    monkeypatch: pytest.MonkeyPatch,
    leave: Callable[[anthropic.AsyncAnthropic], Awaitable[None]],
) -> None:
    api.script(message(hold_after=4))
    emitted, emit = asyncio.Event(), recorder.emitter.emit
    monkeypatch.setattr(recorder.emitter, "emit", lambda event: (emit(event), emitted.set()))
    async with async_client(api, recorder) as client:
        await leave(client)
        gc.collect()
        # The loop closes an abandoned asynchronous generator in a task of its own.
        await asyncio.wait_for(emitted.wait(), 10)
    event = recorder.event
    assert (event.error, event.input_tokens, event.output_tokens) == ("", 10, None)


async def test_a_cancelled_async_stream_is_recorded(api: MessagesAPI, recorder: Recorder) -> None:
    api.script(message(hold_after=4))
    reading = asyncio.Event()

    async def read(client: anthropic.AsyncAnthropic) -> None:
        async for event in await client.messages.create(stream=True, **REQUEST):
            if event.type == "content_block_delta":
                reading.set()

    async with async_client(api, recorder) as client:
        task = asyncio.create_task(read(client))
        await asyncio.wait_for(reading.wait(), 10)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
    assert recorder.event.error == "asyncio.exceptions.CancelledError"

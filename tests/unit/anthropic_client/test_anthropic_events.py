"""What is recorded of calls that are answered at once, fail, or are retried."""

from __future__ import annotations

import asyncio
import json
import threading
from typing import Any

import anthropic
import pydantic
import pytest

from tests.support.instrumented import REQUEST, Recorder, Tide, async_client, sync_client
from tests.support.messages_api import MessagesAPI, error, message, raw, tool_use, usage
from tidegauge.producers import Client
from tidegauge.producers.anthropic import instrument, receipt_of, uninstrument
from tidegauge.producers.anthropic_record import Record
from tidegauge.producers.receipt import decode_receipt


def test_an_event_holds_the_models_the_usage_and_the_stop_reason(
    api: MessagesAPI, recorder: Recorder, client: anthropic.Anthropic
) -> None:
    api.script(message(usage=usage(10, 5, thinking=3), model="claude-test-1-dated", message_id="msg_7"))
    client.messages.create(**REQUEST)
    event = recorder.event
    assert (event.provider, event.model, event.response_model) == (
        "anthropic",
        "claude-test-1",
        "claude-test-1-dated",
    )
    assert (event.operation, event.response_id, event.finish_reasons) == ("chat", "msg_7", ["end_turn"])
    assert (event.input_tokens, event.output_tokens, event.reasoning_output_tokens) == (10, 5, 3)
    assert (event.error, event.retries, event.stream, event.time_to_first_chunk) == ("", 0, False, None)
    assert event.duration is not None
    assert 0 < event.duration < 10


def test_cache_reads_and_writes_are_part_of_the_input(
    api: MessagesAPI, recorder: Recorder, client: anthropic.Anthropic
) -> None:
    api.script(message(usage=usage(10, 5, cache_read=1_000, cache_5m=200, cache_1h=30)))
    client.messages.create(**REQUEST)
    event = recorder.event
    assert event.input_tokens == 10 + 1_000 + 200 + 30
    assert event.cache_read_input_tokens == 1_000
    assert event.cache_creation_input_tokens == 230
    assert event.cache_creation_1h_input_tokens == 30


@pytest.mark.parametrize(
    ("reply", "reason"),
    [
        (message("", stop_reason="refusal"), "refusal"),
        (message(content=[tool_use()], stop_reason="tool_use"), "tool_use"),
        (message("The tide", stop_reason="max_tokens"), "max_tokens"),
    ],
)
def test_a_stop_reason_is_no_error(
    api: MessagesAPI, recorder: Recorder, client: anthropic.Anthropic, reply: Any, reason: str
) -> None:
    api.script(reply)
    client.messages.create(**REQUEST)
    assert (recorder.event.finish_reasons, recorder.event.error) == ([reason], "")


def test_a_call_with_its_retries_is_one_event(
    api: MessagesAPI, recorder: Recorder, client: anthropic.Anthropic
) -> None:
    api.script(error(429, retry_after=0.05), error(529, retry_after=0.001), message())
    client.messages.create(**REQUEST)
    assert len(api.requests) == 3
    event = recorder.event
    assert (event.retries, event.error, event.output_tokens) == (2, "", 5)
    assert event.duration is not None
    assert event.duration >= 0.05  # what the app waited, the retries' waits included


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (400, "anthropic.BadRequestError"),
        (401, "anthropic.AuthenticationError"),
        (429, "anthropic.RateLimitError"),
        (500, "anthropic.InternalServerError"),
        (529, "anthropic.OverloadedError"),
    ],
)
def test_a_refused_call_is_an_error_without_usage(
    api: MessagesAPI, recorder: Recorder, client: anthropic.Anthropic, status: int, kind: str
) -> None:
    api.script(*(error(status, retry_after=0.001) for _ in range(3)))
    with pytest.raises(anthropic.APIStatusError) as caught:
        client.messages.create(**REQUEST)
    assert caught.value.status_code == status
    event = recorder.event
    assert event.error == kind
    assert event.retries == len(api.requests) - 1 == (0 if status < 429 else 2)
    assert (event.input_tokens, event.output_tokens, event.finish_reasons) == (None, None, [])


def test_a_status_without_a_class_of_its_own_is_named_by_the_api(
    api: MessagesAPI, recorder: Recorder, client: anthropic.Anthropic
) -> None:
    api.script(error(418, kind="teapot_error"))
    with pytest.raises(anthropic.APIStatusError):
        client.messages.create(**REQUEST)
    assert recorder.event.error == "teapot_error"


def test_a_timeout_is_an_error(api: MessagesAPI, recorder: Recorder) -> None:
    api.script(message(hold_after=0), message(hold_after=0))
    with sync_client(api, recorder, timeout=0.1, max_retries=1) as client:
        client._sleep_for_retry = lambda **_: None  # type: ignore[method-assign]
        with pytest.raises(anthropic.APITimeoutError):
            client.messages.create(**REQUEST)
    assert (recorder.event.error, recorder.event.retries) == ("anthropic.APITimeoutError", 1)


def test_a_server_that_is_not_there_is_an_error(recorder: Recorder) -> None:
    with MessagesAPI() as gone:
        pass
    with sync_client(gone, recorder, max_retries=0) as client, pytest.raises(anthropic.APIConnectionError):
        client.messages.create(**REQUEST)
    assert recorder.event.error == "anthropic.APIConnectionError"


async def test_a_cancelled_call_is_recorded(api: MessagesAPI, recorder: Recorder) -> None:
    reply = message(hold_after=0)
    api.script(reply)
    async with async_client(api, recorder) as client:
        task = asyncio.create_task(client.messages.create(**REQUEST))
        await asyncio.to_thread(reply.held.wait, 10)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
    assert recorder.event.error == "asyncio.exceptions.CancelledError"


def test_structured_output_that_was_cut_short_was_billed_all_the_same(
    api: MessagesAPI, recorder: Recorder, client: anthropic.Anthropic
) -> None:
    api.script(message('{"height": 1.', stop_reason="max_tokens", usage=usage(10, 64)))
    with pytest.raises(pydantic.ValidationError):
        client.messages.parse(output_format=Tide, **REQUEST)
    event = recorder.event
    assert (event.input_tokens, event.output_tokens, event.finish_reasons) == (10, 64, ["max_tokens"])
    assert event.error.endswith("ValidationError")


def test_a_body_that_is_not_json_leaves_the_usage_unknown(
    api: MessagesAPI, recorder: Recorder, client: anthropic.Anthropic
) -> None:
    api.script(raw(b'{"id": "msg_1", "usage": {"input_tokens": 1'))
    with pytest.raises(json.JSONDecodeError):
        client.messages.create(**REQUEST)
    assert (recorder.event.input_tokens, recorder.event.error) == (None, "json.decoder.JSONDecodeError")


def test_a_message_of_unknown_shape_is_counted_and_the_app_gets_it(
    api: MessagesAPI, recorder: Recorder, client: anthropic.Anthropic
) -> None:
    reply = message(usage={"input_tokens": "ten", "output_tokens": 5})
    api.script(reply)
    assert client.messages.create(**REQUEST).usage.output_tokens == 5
    (event,) = recorder.events
    assert (event.input_tokens, event.output_tokens, event.error) == (None, None, "")
    assert recorder.emitter.notes == {"unreadable_response": 1}


def test_the_model_of_extra_body_is_the_one_asked_for(
    recorder: Recorder, client: anthropic.Anthropic
) -> None:
    client.messages.create(**REQUEST, extra_body={"model": "claude-other"})
    assert recorder.event.model == "claude-other"


def test_counting_tokens_is_no_model_call(recorder: Recorder, client: anthropic.Anthropic) -> None:
    assert client.messages.count_tokens(model="claude-test-1", messages=REQUEST["messages"]).input_tokens == 7
    assert recorder.events == []


def test_a_tool_runner_is_one_event_for_each_turn(
    api: MessagesAPI, recorder: Recorder, client: anthropic.Anthropic
) -> None:
    @anthropic.beta_tool
    def get_tide(port: str) -> str:
        """The tide at a port."""
        return f"1.5 m at {port}"

    api.script(message(content=[tool_use()], stop_reason="tool_use"), message("1.5 m"))
    runner = client.beta.messages.tool_runner(tools=[get_tide], **REQUEST)
    assert runner.until_done().content[0].text == "1.5 m"  # type: ignore[union-attr]
    assert [event.finish_reasons for event in recorder.events] == [["tool_use"], ["end_turn"]]


def test_copies_record_too_and_other_clients_do_not(
    api: MessagesAPI, recorder: Recorder, client: anthropic.Anthropic
) -> None:
    with sync_client(api) as other:
        other.messages.create(**REQUEST)
    assert recorder.events == []
    client.copy().with_options(timeout=3).messages.create(**REQUEST)
    client.with_middleware(lambda request, call_next: call_next(request)).messages.create(**REQUEST)
    assert len(recorder.events) == 2


def test_instrumenting_twice_records_once(recorder: Recorder, client: anthropic.Anthropic) -> None:
    assert instrument(client, recorder.client) is client
    client.messages.create(**REQUEST)
    assert recorder.event.input_tokens == 10


def test_uninstrumenting_leaves_the_client_as_it_was(api: MessagesAPI, recorder: Recorder) -> None:
    with sync_client(api) as client:
        before = dict(vars(client))
        clone = instrument(client, recorder.client).copy()
        assert uninstrument(client) is client
        assert vars(client) == before
        client.messages.create(**REQUEST)
        assert recorder.events == []
        clone.messages.create(**REQUEST)
        assert len(recorder.events) == 1
        assert uninstrument(client) is client


def test_a_patch_laid_over_ours_survives_uninstrumenting(api: MessagesAPI, recorder: Recorder) -> None:
    with sync_client(api, recorder) as client:
        ours, seen = client.request, []
        client.request = lambda *a, **k: seen.append(1) or ours(*a, **k)  # type: ignore[method-assign]
        uninstrument(client)
        client.messages.create(**REQUEST)
    assert (seen, recorder.events) == ([1], [])


def test_what_is_not_a_client_is_refused() -> None:
    with pytest.raises(TypeError, match="anthropic client such as"):
        instrument(object())


@pytest.mark.parametrize(
    ("name", "arguments", "provider"),
    [
        ("AnthropicBedrock", {"aws_region": "eu-north-1", "api_key": "test"}, "aws.bedrock"),
        ("AnthropicVertex", {"region": "us", "project_id": "p", "access_token": "t"}, "gcp.vertex_ai"),
    ],
)
@pytest.mark.parametrize("streamed", [False, True])
def test_the_platform_is_the_provider(
    api: MessagesAPI,
    recorder: Recorder,
    name: str,
    arguments: dict[str, Any],
    provider: str,
    *,
    streamed: bool,
) -> None:
    http = anthropic.DefaultHttpxClient(verify=False)
    plain = getattr(anthropic, name)(base_url=api.url, http_client=http, **arguments)
    with instrument(plain, recorder.client) as client:
        # The bytes, because parsing Bedrock's event stream takes the optional botocore.
        with client.messages.with_streaming_response.create(stream=streamed, **REQUEST) as response:
            response.read()
        assert len(recorder.events) == 1
        client.copy().messages.create(**REQUEST)
    assert {event.provider for event in recorder.events} == {provider}
    assert {event.model for event in recorder.events} == {"claude-test-1"}
    assert [event.output_tokens for event in recorder.events] == [5, 5]
    assert recorder.events[0].finish_reasons == ["end_turn"]
    assert (recorder.events[0].time_to_first_chunk is not None) is streamed


def test_each_answer_that_a_middleware_asks_for_is_billed_and_recorded(
    api: MessagesAPI, recorder: Recorder
) -> None:
    from anthropic.lib.middleware import BetaRefusalFallbackMiddleware

    middleware = [BetaRefusalFallbackMiddleware([{"model": "claude-fallback"}])]
    with sync_client(api, recorder, middleware=middleware) as client:
        for streamed in (False, True):
            api.script(message(content=[], stop_reason="refusal"), message("The tide is rising."))
            answer = client.beta.messages.create(stream=streamed, **REQUEST)
            if streamed:
                assert "message_stop" in [event.type for event in answer]  # type: ignore[union-attr]
    assert [(event.model, event.finish_reasons) for event in recorder.events] == [
        ("claude-test-1", ["refusal"]),
        ("claude-fallback", ["end_turn"]),
    ] * 2
    assert recorder.emitter.notes == {}


def test_the_receipt_of_a_message_is_its_calls(recorder: Recorder, client: anthropic.Anthropic) -> None:
    answer = client.messages.create(**REQUEST)
    receipt = receipt_of(answer)
    assert receipt is not None
    assert decode_receipt(receipt).request_id == recorder.event.id
    assert receipt_of(answer.id) == receipt
    assert receipt_of("msg_unknown") is None


def test_text_is_captured_only_where_it_is_asked_for(api: MessagesAPI) -> None:
    request = {**REQUEST, "system": [{"type": "text", "text": "Be brief."}]}
    for capture, expected in [
        (False, (None, None)),
        (True, ("system: Be brief.\n\nuser: When is high tide?", "The tide is rising.")),
    ]:
        for streamed in (False, True):
            recorder = Recorder(capture_text=capture)
            with sync_client(api, recorder) as client:
                answer = client.messages.create(stream=streamed, **request)
                if streamed:
                    list(answer)  # type: ignore[call-overload]
            assert (recorder.event.input_text, recorder.event.output_text) == expected


def test_an_iterator_of_messages_is_left_to_the_client(api: MessagesAPI) -> None:
    recorder = Recorder(capture_text=True)
    with sync_client(api, recorder) as client:
        client.messages.create(**{**REQUEST, "messages": iter(REQUEST["messages"])})
    assert api.requests[-1].body["messages"] == REQUEST["messages"]
    assert recorder.event.input_text == "When is high tide?"


@pytest.mark.parametrize("step", ["__init__", "sending", "responded", "data", "complete", "finish"])
@pytest.mark.parametrize("streamed", [False, True])
def test_a_bug_of_ours_does_not_reach_the_app(
    api: MessagesAPI,
    recorder: Recorder,
    client: anthropic.Anthropic,
    monkeypatch: pytest.MonkeyPatch,
    step: str,
    *,
    streamed: bool,
) -> None:
    def broken(*args: object, **kwargs: object) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(Record, step, broken)
    answer = client.messages.create(stream=streamed, **REQUEST)
    if streamed:
        assert [event.type for event in answer][-1] == "message_stop"  # type: ignore[union-attr]
    else:
        assert answer.content[0].text == "The tide is rising."  # type: ignore[union-attr]
    reached = streamed or step not in ("data", "complete")
    assert (recorder.emitter.notes["internal_error"] > 0) is reached


def test_a_broken_emitter_does_not_reach_the_app(api: MessagesAPI) -> None:
    class Broken:
        def __getattr__(self, name: str) -> Any:
            raise ZeroDivisionError

    with sync_client(api) as plain:
        client = instrument(plain, Client(emitter=Broken()))  # type: ignore[arg-type]
        assert client.messages.create(**REQUEST).stop_reason == "end_turn"


def test_threads_share_a_client_and_each_call_is_one_event(
    recorder: Recorder, client: anthropic.Anthropic
) -> None:
    def work(number: int) -> None:
        for turn in range(5):
            client.messages.create(**{**REQUEST, "model": f"claude-{number}-{turn}"})

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    expected = sorted(f"claude-{number}-{turn}" for number in range(4) for turn in range(5))
    assert sorted(event.model for event in recorder.events) == expected
    assert all(event.response_model == event.model for event in recorder.events)


def test_the_seams_that_are_patched_are_still_there() -> None:
    for kind in (anthropic.Anthropic, anthropic.AsyncAnthropic, anthropic.AnthropicVertex):
        parameters = list(kind._attempt_request.__annotations__)
        assert parameters[:3] == ["options", "stream", "retries_taken"]
        assert list(kind.request.__annotations__)[:2] == ["cast_to", "options"]


def test_a_version_without_the_seam_is_recorded_without_tokens(
    api: MessagesAPI, recorder: Recorder, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Later:
        """Has what a client promises publicly, and nothing of today's inside."""

        messages = object()

        def request(self, cast_to: object, options: Any, *, stream: bool = False) -> str:
            return "answer"

    later = instrument(Later(), recorder.client)
    asked = anthropic._models.FinalRequestOptions.construct(
        method="post", url="/v1/messages", json_data={"model": "claude-test-1"}
    )
    assert later.request(str, asked) == "answer"
    assert (recorder.event.model, recorder.event.input_tokens) == ("claude-test-1", None)

"""Labels, receipts and guardrails of the calls made in a block."""

from __future__ import annotations

import asyncio
import contextvars
import gc
import logging
import threading

import anthropic
import pytest

from tests.support.instrumented import REQUEST, Recorder, async_client, sync_client
from tests.support.messages_api import MessagesAPI, message
from tidegauge.producers import diagnostics
from tidegauge.producers.context import context, current_call, current_context
from tidegauge.producers.receipt import decode_receipt


def test_the_calls_of_a_block_carry_its_labels(recorder: Recorder, client: anthropic.Anthropic) -> None:
    with context(
        prompt="answer", prompt_version="7", prompt_hash="h", user="u1", conversation="c9", team="care"
    ):
        client.messages.create(**REQUEST)
    client.messages.create(**REQUEST)
    inside, outside = recorder.events
    assert (inside.prompt, inside.prompt_version, inside.prompt_hash) == ("answer", "7", "h")
    assert (inside.user, inside.conversation, inside.team) == ("u1", "c9", "care")
    assert (outside.prompt, outside.user, outside.team) == ("", "", "")


def test_an_inner_block_adds_to_the_outer_one(recorder: Recorder, client: anthropic.Anthropic) -> None:
    with context(user="u1", prompt="outer") as outer:
        with context(prompt="inner", prompt_version="2") as inner:
            client.messages.create(**REQUEST)
            assert current_context() is inner
        client.messages.create(**REQUEST)
    first, second = recorder.events
    assert (first.user, first.prompt, first.prompt_version) == ("u1", "inner", "2")
    assert (second.user, second.prompt, second.prompt_version) == ("u1", "outer", "")
    assert [len(inner.receipts), len(outer.receipts)] == [1, 2]
    assert current_context() is None


def test_a_block_keeps_the_receipts_of_its_calls(recorder: Recorder, client: anthropic.Anthropic) -> None:
    with context(prompt="answer", prompt_version="7") as scope:
        client.messages.create(**REQUEST)
        list(client.messages.create(stream=True, **REQUEST))
    receipts = [decode_receipt(receipt) for receipt in scope.receipts]
    assert [receipt.request_id for receipt in receipts] == [event.id for event in recorder.events]
    assert (receipts[0].prompt, receipts[0].prompt_version) == ("answer", "7")


def test_checks_of_the_input_go_to_the_next_call(recorder: Recorder, client: anthropic.Anthropic) -> None:
    with context() as scope:
        scope.guardrail("pii", stage="input", triggered=True, action="redact", score=0.9)
        client.messages.create(**REQUEST)
        client.messages.create(**REQUEST)
    first, second = recorder.events
    (result,) = first.guardrails
    assert (result.name, result.stage, result.triggered) == ("pii", "input", True)
    assert (result.action, result.score) == ("redact", 0.9)
    assert second.guardrails == []


def test_checks_of_the_answer_join_a_call_that_is_held(
    recorder: Recorder, client: anthropic.Anthropic
) -> None:
    with context(hold=True) as scope:
        client.messages.create(**REQUEST)
        assert recorder.events == []
        scope.guardrail("toxicity", stage="output", triggered=False)
        scope.guardrail("pii", stage="input", triggered=False)  # of what comes next
        call = current_call()
        assert call is scope.current
        duration = call._event.duration  # type: ignore[union-attr]
        assert duration is not None
        client.messages.create(**REQUEST)
        assert len(recorder.events) == 1
    first, second = recorder.events
    assert [result.name for result in first.guardrails] == ["toxicity"]
    assert [result.name for result in second.guardrails] == ["pii"]
    assert first.duration == duration
    assert recorder.emitter.notes == {}


def test_an_outer_block_holds_the_calls_of_an_inner_one(
    recorder: Recorder, client: anthropic.Anthropic
) -> None:
    with context(hold=True) as outer:
        with context(prompt="inner", hold=True):
            client.messages.create(**REQUEST)
        assert recorder.events == []
        outer.guardrail("pii", stage="output", triggered=True)
    assert [result.name for result in recorder.event.guardrails] == ["pii"]


def test_a_check_that_comes_too_late_is_counted(recorder: Recorder, client: anthropic.Anthropic) -> None:
    with context() as scope:
        client.messages.create(**REQUEST)
        scope.guardrail("pii", stage="output", triggered=True)
    assert recorder.emitter.notes == {"after_finish": 1}


def test_checks_of_a_running_stream_join_it(
    api: MessagesAPI, recorder: Recorder, client: anthropic.Anthropic
) -> None:
    api.script(message(hold_after=4))
    with context() as scope, client.messages.stream(**REQUEST) as stream:
        next(stream.text_stream)
        scope.guardrail("pii", stage="input", triggered=False)
        scope.guardrail("toxicity", stage="output", triggered=True, action="block")
    assert [result.name for result in recorder.event.guardrails] == ["pii", "toxicity"]


def test_a_check_without_a_call_is_told_of(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(diagnostics, "_throttle", diagnostics.Throttle())
    with caplog.at_level(logging.WARNING, "tidegauge"), context() as scope:
        scope.guardrail("pii", stage="input", triggered=True, action="block")
    assert "1 guardrail result" in caplog.text
    assert "Client.call" in caplog.text


def test_a_wrong_check_fails_where_it_is_made() -> None:
    with context() as scope, pytest.raises(TypeError, match="sort"):
        scope.guardrail("pii", sort="input", triggered=True)  # type: ignore[call-arg]


def test_a_failed_call_is_held_and_emitted_too(recorder: Recorder) -> None:
    with MessagesAPI() as gone:
        pass
    with sync_client(gone, recorder, max_retries=0) as client, context(hold=True) as scope:
        with pytest.raises(anthropic.APIConnectionError):
            client.messages.create(**REQUEST)
        assert recorder.events == []
        scope.guardrail("fallback", stage="output", triggered=True, action="fallback")
    assert recorder.event.error == "anthropic.APIConnectionError"


def test_a_block_dropped_without_leaving_it_loses_no_call(
    recorder: Recorder, client: anthropic.Anthropic
) -> None:
    def run() -> None:
        context(hold=True).__enter__()
        client.messages.create(**REQUEST)

    contextvars.copy_context().run(run)
    gc.collect()
    assert recorder.event.finish_reasons == ["end_turn"]


def test_a_block_is_entered_once() -> None:
    scope = context()
    with scope, pytest.raises(RuntimeError, match="already entered"):
        scope.__enter__()
    with scope:
        assert current_context() is scope


def test_threads_do_not_see_each_others_blocks(recorder: Recorder, client: anthropic.Anthropic) -> None:
    barrier = threading.Barrier(3)

    def work(user: str) -> None:
        with context(user=user):
            barrier.wait(10)
            client.messages.create(**REQUEST, extra_body={"model": f"for-{user}"})

    def unlabelled() -> None:
        barrier.wait(10)
        client.messages.create(**REQUEST)

    with context(user="main"):
        threads = [threading.Thread(target=work, args=(user,)) for user in ("a", "b")]
        threads.append(threading.Thread(target=unlabelled))
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(30)
        handed_over = threading.Thread(
            target=contextvars.copy_context().run, args=(client.messages.create,), kwargs=REQUEST
        )
        handed_over.start()
        handed_over.join(30)
    users = {event.model: event.user for event in recorder.events if event.model.startswith("for-")}
    assert users == {"for-a": "a", "for-b": "b"}
    assert sorted(event.user for event in recorder.events) == ["", "a", "b", "main"]


async def test_tasks_have_blocks_of_their_own(api: MessagesAPI, recorder: Recorder) -> None:
    async with async_client(api, recorder) as client:

        async def work(user: str) -> None:
            async with context(user=user, hold=True) as scope:
                await client.messages.create(**REQUEST, extra_body={"model": f"for-{user}"})
                await asyncio.sleep(0)
                scope.guardrail(f"check-{user}", stage="output", triggered=False)

        with context(team="care"):
            await asyncio.gather(*(work(str(number)) for number in range(10)))
    assert len(recorder.events) == 10
    for event in recorder.events:
        number = event.user
        assert (event.model, event.team) == (f"for-{number}", "care")
        assert [result.name for result in event.guardrails] == [f"check-{number}"]


async def test_a_call_in_a_task_of_its_own_is_the_blocks_current_one(
    api: MessagesAPI, recorder: Recorder
) -> None:
    async with async_client(api, recorder) as client, context(hold=True) as scope:
        await asyncio.wait_for(client.messages.create(**REQUEST), 10)
        scope.guardrail("pii", stage="output", triggered=False)
    assert [result.name for result in recorder.event.guardrails] == ["pii"]

from __future__ import annotations

import asyncio
import gc
import logging
import threading
import time
from typing import Any

import pytest

from tidegauge.producers import Client, MemoryEmitter, configure, default_client
from tidegauge.producers import call as default_call
from tidegauge.producers.call import error_type
from tidegauge.schemas.codec import Codec, encode
from tidegauge.schemas.request import RequestEvent
from tidegauge.settings import load


class Broken(MemoryEmitter):
    """An emitter with a bug."""

    def emit(self, event: Any) -> bool:
        raise RuntimeError("a private value")


@pytest.fixture
def emitter() -> MemoryEmitter:
    return MemoryEmitter()


def make(emitter: MemoryEmitter, redact: Any = None, **settings: Any) -> Client:
    overrides = {f"emitter.{name}": value for name, value in settings.items()}
    return Client(load(environ={}, overrides=overrides), emitter=emitter, redact=redact)


@pytest.fixture
def client(emitter: MemoryEmitter) -> Client:
    return make(emitter, service="svc", environment="test", team="team")


def only(emitter: MemoryEmitter) -> RequestEvent:
    (event,) = emitter.events
    assert isinstance(event, RequestEvent)
    decoded, refused = Codec(RequestEvent).decode(encode(event))
    assert not refused
    assert decoded[0] == event
    return event


def test_a_call_becomes_one_event_with_all_that_was_said_of_it(
    client: Client, emitter: MemoryEmitter
) -> None:
    before = time.time()
    with client.call(
        provider="anthropic",
        model="claude",
        prompt="answer",
        prompt_version="3",
        prompt_hash="abc",
        user="ann",
        conversation="c1",
        stream=True,
    ) as call:
        assert not emitter.events
        call.first_chunk()
        call.set_usage(
            input_tokens=100,
            output_tokens=20,
            cache_read_input_tokens=50,
            cache_creation_input_tokens=30,
            cache_creation_1h_input_tokens=10,
            reasoning_output_tokens=5,
            estimated=True,
        )
        call.set_response(model="claude-1", id="msg", finish_reasons=("stop",))
        call.set_cost(12_345)
        call.set_retries(2)
        call.guardrail(
            "pii", stage="input", triggered=True, action="redact", score=0.5, duration=0.01, version="2"
        )
    event = only(emitter)
    assert before <= event.time <= time.time()
    assert event.duration is not None
    assert event.time_to_first_chunk is not None
    assert 0 <= event.time_to_first_chunk <= event.duration < 5
    expected = {
        "service": "svc", "environment": "test", "team": "team", "provider": "anthropic", "model": "claude",
        "operation": "chat", "response_model": "claude-1", "response_id": "msg", "finish_reasons": ["stop"],
        "stream": True, "input_tokens": 100, "output_tokens": 20, "cache_read_input_tokens": 50,
        "cache_creation_input_tokens": 30, "cache_creation_1h_input_tokens": 10, "reasoning_output_tokens": 5,
        "usage_estimated": True, "cost": 12_345, "retries": 2, "prompt": "answer", "prompt_version": "3",
        "prompt_hash": "abc", "user": "ann", "conversation": "c1", "error": "",
    }  # fmt: skip
    assert {name: getattr(event, name) for name in expected} == expected
    (guardrail,) = event.guardrails
    assert (guardrail.name, guardrail.action, guardrail.version) == ("pii", "redact", "2")


def test_arguments_of_the_client_and_the_call_win_over_the_settings(emitter: MemoryEmitter) -> None:
    settings = load(environ={}, overrides={"emitter.service": "a", "emitter.team": "b"})
    client = Client(settings, service="mine", environment="prod", emitter=emitter)
    client.call(provider="p", model="m", team="other").finish()
    event = only(emitter)
    assert (event.service, event.environment, event.team) == ("mine", "prod", "other")


def test_a_call_is_emitted_once_however_often_it_is_finished(client: Client, emitter: MemoryEmitter) -> None:
    with client.call(provider="p", model="m") as call:
        call.finish()
        call.finish()
    call.finish()
    only(emitter)
    assert call.finished


def test_an_exception_is_recorded_by_its_class_and_raised_untouched(
    client: Client, emitter: MemoryEmitter
) -> None:
    error = TimeoutError("private text")
    with pytest.raises(TimeoutError) as caught, client.call(provider="p", model="m"):
        raise error
    assert caught.value is error
    event = only(emitter)
    assert event.error == "TimeoutError"
    assert b"private" not in encode(event)


async def test_a_cancelled_call_is_recorded_and_stays_cancelled(
    client: Client, emitter: MemoryEmitter
) -> None:
    entered = asyncio.Event()

    async def work() -> None:
        async with client.call(provider="p", model="m"):
            entered.set()
            await asyncio.Event().wait()

    task = asyncio.create_task(work())
    await entered.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert only(emitter).error == "asyncio.exceptions.CancelledError"


async def test_concurrent_calls_do_not_mix(client: Client, emitter: MemoryEmitter) -> None:
    async def work(n: int) -> None:
        async with client.call(provider="p", model=f"m{n}") as call:
            await asyncio.sleep(0)
            call.set_usage(input_tokens=n)

    await asyncio.gather(*(work(n) for n in range(50)))
    assert {(e.model, e.input_tokens) for e in emitter.events} == {(f"m{n}", n) for n in range(50)}
    assert len({e.id for e in emitter.events}) == 50


def test_an_error_type_that_was_set_is_kept(client: Client, emitter: MemoryEmitter) -> None:
    call = client.call(provider="p", model="m")
    call.fail("content_filter")
    with pytest.raises(ValueError), call:
        raise ValueError
    assert only(emitter).error == "content_filter"


def test_error_types_carry_the_module_unless_built_in() -> None:
    class InnerError(Exception):
        pass

    assert error_type(ValueError) == "ValueError"
    assert error_type(asyncio.QueueFull) == "asyncio.queues.QueueFull"
    assert error_type(InnerError).endswith(
        "test_error_types_carry_the_module_unless_built_in.<locals>.InnerError"
    )


def test_only_the_first_chunk_counts(client: Client, emitter: MemoryEmitter) -> None:
    with client.call(provider="p", model="m") as call:
        call.first_chunk()
        first = call._event.time_to_first_chunk
        call.first_chunk()
    assert only(emitter).time_to_first_chunk == first


def test_what_comes_after_the_end_is_counted_and_changes_nothing(
    client: Client, emitter: MemoryEmitter
) -> None:
    with client.call(provider="p", model="m") as call:
        pass
    sent = encode(only(emitter))
    call.set_usage(input_tokens=1)
    call.set_response(model="x")
    call.set_cost(1)
    call.set_retries(1)
    call.guardrail("g", stage="output", triggered=False)
    call.fail("x")
    call.first_chunk()
    assert encode(only(emitter)) == sent
    assert emitter.notes == {"after_finish": 6}


def test_a_call_that_is_never_finished_is_counted(client: Client, emitter: MemoryEmitter) -> None:
    client.call(provider="p", model="m")
    gc.collect()
    assert not emitter.events
    assert emitter.notes == {"abandoned": 1}


def test_the_result_of_set_usage_is_the_last_one(client: Client, emitter: MemoryEmitter) -> None:
    with client.call(provider="p", model="m") as call:
        call.set_usage(input_tokens=5, output_tokens=1, cache_read_input_tokens=3)
        call.set_usage(input_tokens=9)
    event = only(emitter)
    assert (event.input_tokens, event.output_tokens, event.cache_read_input_tokens) == (9, None, 0)


def test_texts_are_off_by_default(client: Client, emitter: MemoryEmitter) -> None:
    with client.call(provider="p", model="m") as call:
        call.set_text("question", "answer")
    event = only(emitter)
    assert (event.input_text, event.output_text) == (None, None)


def test_texts_are_cut_to_the_cap_after_the_redaction(emitter: MemoryEmitter) -> None:
    secret = "sk-12345678"  # starts before the cap and ends behind it
    client = make(emitter, lambda text: text.replace(secret, "***"), capture_text=True, max_text_length=10)
    with client.call(provider="p", model="m") as call:
        call.set_text(input="hello " + secret + " world")
        call.set_text(output="bye")
    event = only(emitter)
    assert (event.input_text, event.output_text) == ("hello *** ", "bye")


@pytest.mark.parametrize("hook", [lambda text: 1 / 0, lambda text: None, lambda text: [text]])
def test_a_redaction_hook_that_fails_drops_the_text(emitter: MemoryEmitter, hook: Any) -> None:
    client = make(emitter, hook, capture_text=True)
    with client.call(provider="p", model="m") as call:
        call.set_text("secret", "secret")
    event = only(emitter)
    assert (event.input_text, event.output_text) == (None, None)
    assert emitter.notes == {"redact_failed": 2}


def test_users_are_pseudonyms_where_a_key_is_set(emitter: MemoryEmitter) -> None:
    key = "Jefe"  # test case 2 of RFC 4231
    client = make(emitter, user_key=key)
    client.call(provider="p", model="m", user="what do ya want for nothing?").finish()
    client.call(provider="p", model="m").finish()
    named, nameless = emitter.events
    assert named.user == "5bdcc146bf60754e6a042426089575c7"
    assert nameless.user == ""


def test_a_bug_of_ours_does_not_reach_the_application(caplog: pytest.LogCaptureFixture) -> None:
    emitter = Broken()
    client = make(emitter)
    with caplog.at_level(logging.DEBUG, logger="tidegauge"):
        with client.call(provider="p", model="m") as call:
            call.set_response(finish_reasons=5)  # type: ignore[arg-type]
        assert not client.record(RequestEvent("x", 1.0))
        assert not client.record_feedback("x", thumb=True)
    assert emitter.notes == {"internal_error": 4}
    assert "private" not in caplog.text


def test_wrong_arguments_of_a_guardrail_are_not_the_applications_problem(
    client: Client, emitter: MemoryEmitter
) -> None:
    with client.call(provider="p", model="m") as call:
        call.guardrail("g", stage="nowhere", triggered=True)  # type: ignore[arg-type]
    assert len(emitter.events) == 1


def test_a_user_that_cannot_be_hashed_does_not_break_the_call(emitter: MemoryEmitter) -> None:
    class Odd(str):
        def __str__(self) -> str:
            raise RuntimeError

    client = make(emitter, user_key="k")
    with client.call(provider="p", model="m", user=Odd("x")):
        pass
    (event,) = emitter.events
    assert event.user == ""
    assert emitter.notes == {"internal_error": 1}


def test_the_module_level_client_is_the_configured_one(emitter: MemoryEmitter) -> None:
    client = configure(load(environ={}), service="mine", emitter=emitter)
    assert default_client() is client
    with default_call(provider="p", model="m"):
        pass
    assert only(emitter).service == "mine"


def test_finishing_from_two_threads_emits_once(client: Client, emitter: MemoryEmitter) -> None:
    for _ in range(200):
        call = client.call(provider="p", model="m")
        barrier = threading.Barrier(2)

        def finish(call: Any = call, barrier: threading.Barrier = barrier) -> None:
            barrier.wait()
            call.finish()

        threads = [threading.Thread(target=finish) for _ in range(2)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert len(emitter.events) == 200

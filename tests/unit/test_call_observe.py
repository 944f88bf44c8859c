from __future__ import annotations

import asyncio
import inspect
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest

from tidegauge.producers import Client, MemoryEmitter, configure, observe
from tidegauge.settings import load


@pytest.fixture
def emitter() -> MemoryEmitter:
    return MemoryEmitter()


@pytest.fixture
def client(emitter: MemoryEmitter) -> Client:
    return Client(load(environ={}), emitter=emitter)


def tokens(result: Any) -> dict[str, int] | None:
    return (
        {"input_tokens": result["in"], "output_tokens": result["out"]} if isinstance(result, dict) else None
    )


def test_a_function_keeps_its_face_and_result(client: Client, emitter: MemoryEmitter) -> None:
    @client.observe(provider="p", model="m", prompt="answer", usage=tokens)
    def ask(question: str, *, loud: bool = False) -> dict[str, Any]:
        """Ask."""
        return {"in": 3, "out": 4, "said": question, "loud": loud}

    assert ask("why", loud=True) == {"in": 3, "out": 4, "said": "why", "loud": True}
    assert (ask.__name__, ask.__doc__) == ("ask", "Ask.")
    assert list(inspect.signature(ask).parameters) == ["question", "loud"]
    (event,) = emitter.events
    assert (event.input_tokens, event.output_tokens, event.prompt) == (3, 4, "answer")
    assert event.stream is False


def test_an_error_of_the_function_is_recorded_and_raised(client: Client, emitter: MemoryEmitter) -> None:
    @client.observe(provider="p", model="m")
    def ask() -> None:
        raise KeyError("x")

    with pytest.raises(KeyError):
        ask()
    assert emitter.events[0].error == "KeyError"


def test_a_usage_hook_that_fails_costs_the_usage_alone(client: Client, emitter: MemoryEmitter) -> None:
    @client.observe(provider="p", model="m", usage=lambda result: result["nothing there"])
    def ask() -> dict[str, int]:
        return {}

    assert ask() == {}
    assert emitter.events[0].input_tokens is None
    assert emitter.notes == {"usage_hook_failed": 1}


async def test_a_coroutine_function_is_measured_until_its_end(client: Client, emitter: MemoryEmitter) -> None:
    @client.observe(provider="p", model="m", usage=tokens)
    async def ask() -> dict[str, int]:
        await asyncio.sleep(0.02)
        return {"in": 1, "out": 2}

    assert inspect.iscoroutinefunction(ask)
    assert await ask() == {"in": 1, "out": 2}
    (event,) = emitter.events
    assert event.duration >= 0.02
    assert event.output_tokens == 2


def test_a_generator_is_a_stream(client: Client, emitter: MemoryEmitter) -> None:
    @client.observe(provider="p", model="m", usage=tokens)
    def ask() -> Iterator[Any]:
        yield "a"
        yield {"in": 1, "out": 1}
        yield {"in": 1, "out": 2}
        yield "end"

    assert inspect.isgeneratorfunction(ask)
    stream = ask()
    assert not emitter.events
    assert next(stream) == "a"
    assert len(list(stream)) == 3
    (event,) = emitter.events
    assert event.stream is True
    assert event.time_to_first_chunk is not None
    assert (event.input_tokens, event.output_tokens) == (1, 2)


def test_a_generator_keeps_send_throw_and_its_return_value(client: Client, emitter: MemoryEmitter) -> None:
    @client.observe(provider="p", model="m")
    def talk() -> Any:
        heard = yield "hello"
        try:
            yield f"heard {heard}"
        except ValueError:
            yield "sorry"
        return "done"

    stream = talk()
    assert next(stream) == "hello"
    assert stream.send("you") == "heard you"
    assert stream.throw(ValueError()) == "sorry"
    with pytest.raises(StopIteration) as end:
        next(stream)
    assert end.value.value == "done"
    assert emitter.events[0].error == ""


def test_a_stream_left_early_is_no_error(client: Client, emitter: MemoryEmitter) -> None:
    closed = []

    @client.observe(provider="p", model="m")
    def ask() -> Iterator[int]:
        try:
            yield from range(100)
        finally:
            closed.append(True)

    stream = ask()
    next(stream)
    stream.close()  # type: ignore[attr-defined]
    assert closed == [True]
    assert emitter.events[0].error == ""


def test_an_error_in_the_middle_of_a_stream_is_recorded(client: Client, emitter: MemoryEmitter) -> None:
    @client.observe(provider="p", model="m")
    def ask() -> Iterator[int]:
        yield 1
        raise ConnectionError

    with pytest.raises(ConnectionError):
        list(ask())
    assert emitter.events[0].error == "ConnectionError"


async def test_an_async_generator_is_a_stream(client: Client, emitter: MemoryEmitter) -> None:
    @client.observe(provider="p", model="m", usage=tokens)
    async def ask() -> AsyncIterator[Any]:
        yield "a"
        await asyncio.sleep(0)
        yield {"in": 5, "out": 6}

    assert inspect.isasyncgenfunction(ask)
    assert [chunk async for chunk in ask()] == ["a", {"in": 5, "out": 6}]
    (event,) = emitter.events
    assert (event.stream, event.output_tokens, event.error) == (True, 6, "")
    assert event.time_to_first_chunk is not None


async def test_an_async_generator_keeps_asend_athrow_and_aclose(
    client: Client, emitter: MemoryEmitter
) -> None:
    closed = []

    @client.observe(provider="p", model="m")
    async def talk() -> Any:
        try:
            heard = yield "hello"
            try:
                yield f"heard {heard}"
            except ValueError:
                yield "sorry"
            yield "more"
        finally:
            closed.append(True)

    stream = talk()
    assert await anext(stream) == "hello"
    assert await stream.asend("you") == "heard you"
    assert await stream.athrow(ValueError()) == "sorry"
    await stream.aclose()
    assert closed == [True]
    (event,) = emitter.events
    assert event.error == ""


async def test_an_error_in_an_async_stream_is_recorded(client: Client, emitter: MemoryEmitter) -> None:
    @client.observe(provider="p", model="m")
    async def ask() -> AsyncIterator[int]:
        yield 1
        raise ConnectionError

    with pytest.raises(ConnectionError):
        _ = [chunk async for chunk in ask()]
    assert emitter.events[0].error == "ConnectionError"


def test_the_module_level_decorator_uses_the_client_of_the_time_of_the_call(emitter: MemoryEmitter) -> None:
    @observe(provider="p", model="m")
    def ask() -> int:
        return 1

    configure(load(environ={}), emitter=emitter, service="later")
    assert ask() == 1
    assert emitter.events[0].service == "later"

"""The decorator that measures a function's calls, whatever kind of function it is."""

from __future__ import annotations

import functools
import inspect
from collections.abc import AsyncGenerator, Callable, Generator, Mapping
from types import TracebackType
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from .call import Call

if TYPE_CHECKING:
    from .client import Client

F = TypeVar("F", bound=Callable[..., Any])
Usage = Callable[[Any], Mapping[str, Any] | None]


class Decorator(Protocol):
    """Gives back a function of the same kind and signature."""

    def __call__(self, function: F) -> F:
        """Decorate."""


def observe(get_client: Callable[[], Client], usage: Usage | None, **fields: Any) -> Decorator:
    """Make the decorator; see ``Client.observe``. Asks for the client at each call."""

    def decorate(function: F) -> F:
        if inspect.isasyncgenfunction(function):
            wrapper = _async_generator(get_client, function, usage, fields)
        elif inspect.isgeneratorfunction(function):
            wrapper = _generator(get_client, function, usage, fields)
        elif inspect.iscoroutinefunction(function):
            wrapper = _coroutine(get_client, function, usage, fields)
        else:
            wrapper = _function(get_client, function, usage, fields)
        return functools.wraps(function)(wrapper)  # type: ignore[return-value]

    return decorate


def _function(
    get_client: Callable[[], Client],
    function: Callable[..., Any],
    usage: Usage | None,
    fields: dict[str, Any],
) -> Callable[..., Any]:
    def wrapper(*args: Any, **kwargs: Any) -> Any:
        client = get_client()
        with client.call(**fields) as call:
            result = function(*args, **kwargs)
            _read_usage(client, call, usage, result)
            return result

    return wrapper


def _coroutine(
    get_client: Callable[[], Client],
    function: Callable[..., Any],
    usage: Usage | None,
    fields: dict[str, Any],
) -> Callable[..., Any]:
    async def wrapper(*args: Any, **kwargs: Any) -> Any:
        client = get_client()
        with client.call(**fields) as call:
            result = await function(*args, **kwargs)
            _read_usage(client, call, usage, result)
            return result

    return wrapper


def _generator(
    get_client: Callable[[], Client],
    function: Callable[..., Any],
    usage: Usage | None,
    fields: dict[str, Any],
) -> Callable[..., Any]:
    fields = {"stream": True, **fields}

    def wrapper(*args: Any, **kwargs: Any) -> Generator[Any, Any, Any]:
        client = get_client()
        with client.call(**fields) as call:
            # `yield from` keeps send, throw, close and the return value as they are.
            return (yield from _Tap(client, call, usage, function(*args, **kwargs)))

    return wrapper


class _Tap(Generator[Any, Any, Any]):
    """A generator that passes everything through and looks at the chunks."""

    def __init__(
        self, client: Client, call: Call, usage: Usage | None, source: Generator[Any, Any, Any]
    ) -> None:
        self._client = client
        self._call = call
        self._usage = usage
        self._source = source

    def send(self, value: Any) -> Any:
        chunk = self._source.send(value)
        self._call.first_chunk()
        _read_usage(self._client, self._call, self._usage, chunk)
        return chunk

    def throw(self, kind: Any, value: Any = None, trace: TracebackType | None = None) -> Any:
        chunk = self._source.throw(kind if value is None else value)
        _read_usage(self._client, self._call, self._usage, chunk)
        return chunk

    def close(self) -> None:
        self._source.close()


def _async_generator(
    get_client: Callable[[], Client],
    function: Callable[..., Any],
    usage: Usage | None,
    fields: dict[str, Any],
) -> Callable[..., Any]:
    fields = {"stream": True, **fields}

    async def wrapper(*args: Any, **kwargs: Any) -> AsyncGenerator[Any, Any]:
        client = get_client()
        with client.call(**fields) as call:
            source: AsyncGenerator[Any, Any] = function(*args, **kwargs)
            step = source.asend(None)
            while True:
                try:
                    chunk = await step
                except StopAsyncIteration:
                    return
                call.first_chunk()
                _read_usage(client, call, usage, chunk)
                try:
                    sent = yield chunk
                except GeneratorExit:
                    await source.aclose()
                    raise
                except BaseException as error:
                    step = source.athrow(error)
                else:
                    step = source.asend(sent)

    return wrapper


def _read_usage(client: Client, call: Call, usage: Usage | None, result: Any) -> None:
    if usage is None:
        return
    try:
        tokens = usage(result)
        if tokens is not None:
            call.set_usage(**tokens)
    except Exception:
        # The application's own hook, but measuring must not cost it the answer.
        client.note("usage_hook_failed")

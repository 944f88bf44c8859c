"""Instrumentation of the official ``anthropic`` client: one request event per call, and nothing else changes.

    import anthropic
    from tidegauge.producers.anthropic import instrument

    client = instrument(anthropic.Anthropic())

What is recorded: ``messages.create``, ``parse``, ``stream`` and whatever else posts to the Messages API, also
in ``beta``, with ``with_raw_response`` and ``with_streaming_response``, by sync and async clients and their
copies. A call with its retries is one event; ``duration`` runs from the call to the parsed answer or the end
of the stream, ``time_to_first_chunk`` to the first ``content_block_delta``. Counting tokens and message
batches are not recorded: the first bills nothing, the second answers later and elsewhere.

``error.type`` is the qualified name of the exception class, such as ``anthropic.RateLimitError``,
``anthropic.APITimeoutError``, ``httpx2.ReadTimeout`` (in a stream) or ``asyncio.exceptions.CancelledError``;
for an ``APIStatusError`` without a class of its own, as an error event in a stream raises it, the API's error
code, such as ``overloaded_error``, or else the status. ``incomplete_stream`` is a stream that the server
ended without a stop reason. A stream that the application leaves early is no error. Usage that was not
received is left out, not 0.

Labels for prompts, users and conversations come from ``tidegauge.producers.context``.
"""

from __future__ import annotations

from collections.abc import Callable
from contextvars import ContextVar
from functools import wraps
from inspect import getattr_static, iscoroutinefunction
from typing import Any, Final, TypeVar

from . import diagnostics
from .anthropic_record import Record, receipt_of, tell
from .client import Client
from .default import default_client

__all__ = ["instrument", "receipt_of", "uninstrument"]

T = TypeVar("T")

PROVIDERS: Final = {
    "AnthropicBedrock": "aws.bedrock",
    "AsyncAnthropicBedrock": "aws.bedrock",
    "AnthropicBedrockMantle": "aws.bedrock",
    "AsyncAnthropicBedrockMantle": "aws.bedrock",
    "AnthropicVertex": "gcp.vertex_ai",
    "AsyncAnthropicVertex": "gcp.vertex_ai",
}
"""OpenTelemetry's provider by the name of a client's class or base class; others are ``anthropic``."""

_URLS: Final = frozenset({"/v1/messages", "/v1/messages?beta=true"})
_STATE: Final = "_tidegauge"
_MISSING: Final = object()

_watched: ContextVar[_Watched | None] = ContextVar("tidegauge_anthropic", default=None)


def instrument(anthropic_client: T, client: Client | None = None) -> T:
    """Record the model calls of one anthropic client; others are not touched.

    Args:
        anthropic_client: ``anthropic.Anthropic``, ``AsyncAnthropic``, or their Bedrock, Vertex AI and other
        kin.
        client: what records; ``None`` is the module-level client as it is when a call is made. Instrumenting
            again changes it, and nothing else.

    Returns:
        The same object.

    Raises:
        TypeError: it is not an anthropic client.
    """
    target: Any = anthropic_client
    # Looked up without asking for it: the client makes its ``messages`` when they are first used.
    if not callable(getattr(target, "request", None)) or getattr_static(target, "messages", None) is None:
        raise TypeError(
            "anthropic_client: expected an anthropic client such as anthropic.Anthropic(), "
            f"got {type(target).__name__}"
        )
    present = vars(target).get(_STATE)
    if isinstance(present, _Instrumentation):
        present.client = client
    else:
        vars(target)[_STATE] = _Instrumentation(target, client)
    return anthropic_client


def uninstrument(anthropic_client: T) -> T:
    """Undo ``instrument``; calls that run are still recorded. Returns the same object."""
    state = vars(anthropic_client).pop(_STATE, None)
    if isinstance(state, _Instrumentation):
        state.remove(anthropic_client)
    return anthropic_client


class _Watched:
    """A call of the application while it is inside the client, with the record of its latest model call."""

    def __init__(self, record: Record) -> None:
        self.record = record


class _Instrumentation:
    """The patches of one client: attributes of that object, over methods of its class.

    ``request`` is where every call passes once, and ``_attempt_request`` once per attempt, with the response.
    A middleware may make further model calls of its own (fallbacks after a refusal): an attempt that follows
    an answer, or comes without a call around it, is recorded as a call for itself, for it is billed for
    itself.
    """

    def __init__(self, target: Any, client: Client | None) -> None:
        self.client = client
        self._provider = next(
            (PROVIDERS[kind.__name__] for kind in type(target).__mro__ if kind.__name__ in PROVIDERS),
            "anthropic",
        )
        asynchronous = iscoroutinefunction(target.request)
        self._before: dict[str, Any] = {}
        self._patches: dict[str, Any] = {}
        self._patch(target, "request", self._async_request if asynchronous else self._request)
        if hasattr(target, "_attempt_request"):
            self._patch(target, "_attempt_request", self._async_attempt if asynchronous else self._attempt)
        else:
            diagnostics.warn(
                "anthropic_version",
                "this version of anthropic is not known: calls are recorded without tokens",
            )
        for name in ("copy", "with_options"):
            if hasattr(target, name):
                self._patch(target, name, self._copy)

    def remove(self, target: Any) -> None:
        """Give the object back the attributes that it had."""
        for name, patch in self._patches.items():
            if vars(target).get(name) is not patch:
                continue  # somebody has patched it after us, and calls ours
            if self._before[name] is _MISSING:
                del vars(target)[name]
            else:
                vars(target)[name] = self._before[name]
        self._patches = {}

    def _patch(self, target: Any, name: str, wrap: Callable[[Any], Any]) -> None:
        self._before[name] = vars(target).get(name, _MISSING)
        vars(target)[name] = self._patches[name] = wrap(getattr(target, name))

    def _request(self, original: Callable[..., Any]) -> Callable[..., Any]:
        @wraps(original)
        def request(*args: Any, **kwargs: Any) -> Any:
            record = self._begin(args, kwargs, position=1)
            if record is None:
                return original(*args, **kwargs)
            watched = _Watched(record)
            token = _watched.set(watched)
            try:
                result = original(*args, **kwargs)
            except BaseException as error:
                watched.record.safely(watched.record.raised, error)
                raise
            finally:
                _watched.reset(token)
            self._returned(watched.record)
            return result

        return request

    def _async_request(self, original: Callable[..., Any]) -> Callable[..., Any]:
        @wraps(original)
        async def request(*args: Any, **kwargs: Any) -> Any:
            record = self._begin(args, kwargs, position=1)
            if record is None:
                return await original(*args, **kwargs)
            watched = _Watched(record)
            token = _watched.set(watched)
            try:
                result = await original(*args, **kwargs)
            except BaseException as error:
                watched.record.safely(watched.record.raised, error)
                raise
            finally:
                _watched.reset(token)
            self._returned(watched.record)
            return result

        return request

    def _attempt(self, original: Callable[..., Any]) -> Callable[..., Any]:
        @wraps(original)
        def attempt(*args: Any, **kwargs: Any) -> Any:
            record, alone = self._sending(args, kwargs)
            try:
                result = original(*args, **kwargs)
            except BaseException as error:
                if record is not None and alone:
                    record.safely(record.raised, error)
                raise
            if record is not None:
                record.safely(self._responded, record, result, alone)
            return result

        return attempt

    def _async_attempt(self, original: Callable[..., Any]) -> Callable[..., Any]:
        @wraps(original)
        async def attempt(*args: Any, **kwargs: Any) -> Any:
            record, alone = self._sending(args, kwargs)
            try:
                result = await original(*args, **kwargs)
            except BaseException as error:
                if record is not None and alone:
                    record.safely(record.raised, error)
                raise
            if record is not None:
                record.safely(self._responded, record, result, alone)
            return result

        return attempt

    def _copy(self, original: Callable[..., Any]) -> Callable[..., Any]:
        @wraps(original)
        def copy(*args: Any, **kwargs: Any) -> Any:
            clone = original(*args, **kwargs)
            try:
                return instrument(clone, self.client)
            except Exception as error:
                self._internal_error(error)
                return clone

        return copy

    def _begin(self, args: tuple[Any, ...], kwargs: dict[str, Any], *, position: int) -> Record | None:
        """The record of a call that is about to be made, or ``None`` if it is not to be recorded."""
        try:
            options = kwargs["options"] if "options" in kwargs else args[position]
            if not self._patches or options.url not in _URLS or options.method.lower() != "post":
                return None
            body = {**(options.json_data or {}), **(options.extra_json or {})}
            model, stream = body.get("model"), body.get("stream")
            return Record(
                self.client or default_client(),
                self._provider,
                model if isinstance(model, str) else "",
                stream=stream is True,
            )
        except Exception as error:
            self._internal_error(error)
            return None

    def _sending(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Record | None, bool]:
        """The record that an attempt belongs to, and whether the attempt is a call for itself."""
        try:
            options = kwargs["options"] if "options" in kwargs else args[0]
            if options.url not in _URLS:
                return None, False
            watched, alone = _watched.get(), False
            if watched is None:
                record, alone = self._begin(args, kwargs, position=0), True
            elif watched.record.answered:
                if not watched.record.body_pending:
                    watched.record.finish()
                record = self._begin(args, kwargs, position=0)
                if record is not None:
                    watched.record = record
            else:
                record = watched.record
            if record is not None:
                record.safely(record.sending, options.json_data, int(kwargs.get("retries_taken", 0)))
            return record, alone
        except Exception as error:
            self._internal_error(error)
            return None, False

    @staticmethod
    def _responded(record: Record, result: Any, alone: bool) -> None:  # noqa: FBT001
        response = result[0]
        if response.is_success:
            record.responded(response)
            if alone and not record.body_pending:
                record.finish()
        elif alone:
            record.finish(str(response.status_code))

    @staticmethod
    def _returned(record: Record) -> None:
        if not record.body_pending:
            record.safely(record.finish)

    def _internal_error(self, error: Exception) -> None:
        tell(self.client or default_client(), error)

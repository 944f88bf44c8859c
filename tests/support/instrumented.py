"""Plain and instrumented anthropic clients side by side, and what can be seen of a call from outside."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import anthropic
import pydantic

from tests.support.messages_api import MessagesAPI
from tidegauge.producers import Client, MemoryEmitter
from tidegauge.producers.anthropic import instrument
from tidegauge.schemas.request import RequestEvent
from tidegauge.settings import Emitter, Settings

REQUEST: dict[str, Any] = {
    "model": "claude-test-1",
    "max_tokens": 64,
    "messages": [{"role": "user", "content": "When is high tide?"}],
}


class Tide(pydantic.BaseModel):
    """A structured output."""

    height: float


class Recorder:
    """A tidegauge client that keeps its events in memory."""

    def __init__(self, **settings: Any) -> None:
        self.emitter = MemoryEmitter()
        self.client = Client(Settings(emitter=Emitter(**settings)), service="tests", emitter=self.emitter)

    @property
    def events(self) -> list[RequestEvent]:
        return self.emitter.events

    @property
    def event(self) -> RequestEvent:
        """The one event there is; fails if something went wrong inside the instrumentation."""
        assert self.emitter.notes == {}
        (event,) = self.emitter.events
        return event


def options(api: MessagesAPI, **more: Any) -> dict[str, Any]:
    return {"base_url": api.url, "api_key": "test", "max_retries": 2, "timeout": 10.0} | more


def sync_client(api: MessagesAPI, recorder: Recorder | None = None, **more: Any) -> anthropic.Anthropic:
    # Loading the certificates that plain HTTP does not need takes longer than the calls of a test.
    http = anthropic.DefaultHttpxClient(verify=False)
    client = anthropic.Anthropic(http_client=http, **options(api, **more))
    return client if recorder is None else instrument(client, recorder.client)


def async_client(api: MessagesAPI, recorder: Recorder | None = None, **more: Any) -> anthropic.AsyncAnthropic:
    http = anthropic.DefaultAsyncHttpxClient(verify=False)
    client = anthropic.AsyncAnthropic(http_client=http, **options(api, **more))
    return client if recorder is None else instrument(client, recorder.client)


def seen(value: Any) -> Any:
    """A value as something that can be compared, with its type."""
    if isinstance(value, pydantic.BaseModel):
        return type(value), value.model_dump()
    if isinstance(value, (list, tuple)):
        return type(value), [seen(item) for item in value]
    return type(value), value


def outcome(way: Callable[[Any], Any], client: Any) -> Any:
    """What a call gave or raised."""
    try:
        return "returned", seen(way(client))
    except Exception as error:
        return "raised", type(error), str(error)


async def async_outcome(way: Callable[[Any], Awaitable[Any]], client: Any) -> Any:
    try:
        return "returned", seen(await way(client))
    except Exception as error:
        return "raised", type(error), str(error)

"""The module-level client, for applications that need only one."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

from tidegauge.errors import TidegaugeError
from tidegauge.schemas.request import RequestEvent
from tidegauge.settings import Settings

from . import diagnostics
from .call import Call
from .client import Client, EventEmitter
from .memory import DiscardingEmitter
from .observe import Decorator, Usage
from .observe import observe as decorate

_lock = threading.RLock()
_client: Client | None = None


def configure(
    settings: Settings | None = None,
    *,
    service: str | None = None,
    environment: str | None = None,
    team: str | None = None,
    emitter: EventEmitter | None = None,
    redact: Callable[[str], str] | None = None,
) -> Client:
    """Make the module-level client, at the start of the application; takes what ``Client`` takes.

    Called again, it closes the one before.

    Raises:
        SettingsError: a setting is wrong.
        UnavailableError: the settings file cannot be read.
    """
    global _client
    client = Client(
        settings, service=service, environment=environment, team=team, emitter=emitter, redact=redact
    )
    with _lock:
        before, _client = _client, client
    if before is not None:
        before.close()
    return client


def default_client() -> Client:
    """The module-level client; without ``configure``, made from the settings file and the environment.

    Wrong settings must not break the application in the middle of a request: they are logged once, and events
    are dropped and counted as ``misconfigured``.
    """
    global _client
    if _client is None:
        with _lock:
            if _client is None:
                try:
                    _client = Client()
                except TidegaugeError as error:
                    diagnostics.logger.error("tidegauge: nothing is recorded: %s", error)
                    _client = Client(Settings(), emitter=DiscardingEmitter("misconfigured"))
    return _client


def call(
    *,
    provider: str,
    model: str,
    operation: str = "chat",
    prompt: str | None = None,
    prompt_version: str | None = None,
    prompt_hash: str | None = None,
    user: str | None = None,
    conversation: str | None = None,
    team: str | None = None,
    stream: bool = False,
) -> Call:
    """``Client.call`` of the module-level client."""
    return default_client().call(
        provider=provider,
        model=model,
        operation=operation,
        prompt=prompt,
        prompt_version=prompt_version,
        prompt_hash=prompt_hash,
        user=user,
        conversation=conversation,
        team=team,
        stream=stream,
    )


def record(event: RequestEvent) -> bool:
    """``Client.record`` of the module-level client."""
    return default_client().record(event)


def record_feedback(
    receipt_or_request_id: str,
    *,
    thumb: bool | None = None,
    rating: float | None = None,
    comment: str | None = None,
) -> bool:
    """``Client.record_feedback`` of the module-level client."""
    return default_client().record_feedback(
        receipt_or_request_id, thumb=thumb, rating=rating, comment=comment
    )


def observe(*, provider: str, model: str, usage: Usage | None = None, **fields: Any) -> Decorator:
    """``Client.observe`` of the module-level client as it is when the decorated function is called."""
    return decorate(default_client, usage, provider=provider, model=model, **fields)

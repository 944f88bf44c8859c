"""What all agents have in common: chunks go to a stage, and no error is acknowledged."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

from tidegauge.processors.engine.transport import Chunk


def attach(app: Any, name: str, topic: str, apply: Callable[[Chunk], Awaitable[None]]) -> None:
    """Add an agent to a Faust app that hands every chunk of a topic to ``apply``."""

    @app.agent(app.topic(topic, value_serializer="raw", key_serializer="raw"), name=name)
    async def agent(chunks: Any) -> None:
        async for chunk in chunks:
            if not app.consumer.continuity.is_current(chunk):
                continue
            try:
                await apply(chunk)
            except Exception as error:  # an exception that left here would be acknowledged and forgotten
                await app.crash(error)
                return

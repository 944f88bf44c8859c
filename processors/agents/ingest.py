"""The ingest agent: chunks of request events to the first stage."""

from __future__ import annotations

from typing import Any

from tidegauge.processors.engine.ingesting import Ingesting


def attach(app: Any, ingesting: Ingesting, topic: str) -> None:
    """Add the agent to a Faust app."""

    @app.agent(app.topic(topic, value_serializer="raw", key_serializer="raw"), name="ingest")
    async def ingest(chunks: Any) -> None:
        async for chunk in chunks:
            try:
                await ingesting.apply(chunk)
            except Exception as error:  # an exception that left here would be acknowledged and forgotten
                await app.crash(error)
                return

"""The merge agent: chunks of pane snapshots to the second stage."""

from __future__ import annotations

from typing import Any

from tidegauge.processors.engine.merging import Merging


def attach(app: Any, merging: Merging, topic: str) -> None:
    """Add the agent to a Faust app."""

    @app.agent(app.topic(topic, value_serializer="raw", key_serializer="raw"), name="merge")
    async def merge(chunks: Any) -> None:
        async for chunk in chunks:
            try:
                merging.apply(chunk)
            except Exception as error:  # an exception that left here would be acknowledged and forgotten
                await app.crash(error)
                return

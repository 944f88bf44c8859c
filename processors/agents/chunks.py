"""What all agents have in common: chunks go to a stage, none is left out, and no error is acknowledged."""

from __future__ import annotations

from typing import Any, Protocol

from faust.types import TP

from tidegauge.processors.engine.transport import Chunk


class Stage(Protocol):
    """Takes in the chunks of a topic."""

    topic: str

    def position(self, partition: int) -> int | None:
        """Where to go on reading, or ``None`` of a partition that is not ours."""
        ...

    async def apply(self, chunk: Chunk) -> None:
        """Take in a chunk."""
        ...


def attach(app: Any, name: str, stage: Stage) -> None:
    """Add an agent to a Faust app that hands every chunk of a topic to its stage."""

    @app.agent(app.topic(stage.topic, value_serializer="raw", key_serializer="raw"), name=name)
    async def agent(chunks: Any) -> None:
        async for chunk in chunks:
            if not app.consumer.continuity.is_current(chunk):
                continue
            app.busy.add(stage.topic)
            try:
                position = stage.position(chunk.partition)
                if position is not None and position < chunk.follows:
                    await app.consumer.read_from({TP(chunk.topic, chunk.partition): position})
                else:
                    await stage.apply(chunk)
            except Exception as error:  # an exception that left here would be acknowledged and forgotten
                await app.crash(error)
                return
            finally:
                app.busy.discard(stage.topic)

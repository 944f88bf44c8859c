"""The first stage on Faust: applies chunks, delivers what a flush yields, stores checkpoints."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from time import monotonic, time
from typing import Any

import msgspec

from tidegauge.processors.core.cardinality import Admitted
from tidegauge.processors.core.ingest import Checkpoint, Ingest, IngestConfig
from tidegauge.processors.core.merge import route
from tidegauge.processors.core.pricing import PriceTable
from tidegauge.schemas.codec import encode
from tidegauge.schemas.pane import PaneBatch, PaneSnapshot
from tidegauge.settings import Settings
from tidegauge.sinks.deadletter import letter_of_event

from .state import StateTable
from .transport import Chunk

PANES_PER_MESSAGE = 1_000
_CHECKPOINT = b"ingest"
_ADMITTED = b"admitted/"


class Ingesting:
    """All source partitions that this worker owns.

    Args:
        settings: topics and rules.
        prices: unit prices.
        table: where checkpoints go.
        producer: Faust's producer; each delivery is awaited.
    """

    def __init__(self, settings: Settings, prices: PriceTable, table: StateTable, producer: Any) -> None:
        worker = settings.worker
        self._topics = settings.topics
        self._config = IngestConfig(
            worker.allowed_lateness,
            worker.future_tolerance,
            worker.epoch_events,
            worker.epoch_seconds,
            worker.max_series,
            worker.max_dimension_values,
        )
        self._prices = prices
        self._table = table
        self._producer = producer
        self._partitions: dict[int, Ingest] = {}
        self._locks: dict[int, asyncio.Lock] = {}
        self.applied = 0
        """Events folded since this worker started."""

    def restore(self, partition: int, values: dict[bytes, bytes], earliest: int) -> int:
        """Take over a partition and return where to read it from.

        Args:
            partition: of the requests topic.
            values: what the state table holds of it.
            earliest: the first offset that Kafka still has.
        """
        raw = values.get(_CHECKPOINT)
        checkpoint = msgspec.json.decode(raw, type=Checkpoint) if raw else Checkpoint()
        admitted = [
            msgspec.json.decode(value, type=Admitted)
            for key, value in values.items()
            if key.startswith(_ADMITTED)
        ]
        ingest = Ingest(self._topics.requests, partition, self._config, self._prices, checkpoint, admitted)
        lost = ingest.skip_to(earliest)
        if lost:
            # Retention was faster than us: say so where on-call looks, there is nothing left to read.
            raise_lost = (
                f"{lost} records of {self._topics.requests}/{partition} expired before they were read"
            )
            self._table.log.error(raise_lost)
        self._partitions[partition] = ingest
        self._locks[partition] = asyncio.Lock()
        return ingest.position

    def position(self, partition: int) -> int | None:
        """Where to go on reading, or ``None`` of a partition that is not ours."""
        ingest = self._partitions.get(partition)
        return None if ingest is None else ingest.position

    def keep(self, partitions: set[int]) -> None:
        """Forget the partitions that others own now."""
        for partition in set(self._partitions) - partitions:
            del self._partitions[partition], self._locks[partition]

    async def apply(self, chunk: Chunk) -> None:
        """Fold one chunk; delivers an ended epoch before going on, which bounds memory."""
        ingest = self._partitions.get(chunk.partition)
        if ingest is None:
            return  # revoked while the chunk waited; its new owner reads it
        self.applied += ingest.apply(chunk.records)
        if ingest.sealed:
            await self.flush(chunk.partition)

    async def flush_all(self) -> None:
        """Deliver everything that is pending, partition by partition."""
        for partition in list(self._partitions):
            await self.flush(partition)

    async def flush(self, partition: int) -> None:
        """Deliver one partition's changes, and store how far that is; raises what Kafka's producer raises."""
        lock = self._locks.get(partition)
        ingest = self._partitions.get(partition)
        if lock is None or ingest is None:
            return
        async with lock:
            if not ingest.pending or ingest.catching_up:
                return
            out = ingest.flush(monotonic())
            futures: list[Awaitable[Any]] = []
            for batch in out.batches:
                futures += await self._send_panes(batch)
            for letter in out.letters:
                dead = letter_of_event(
                    self._topics.requests, partition, letter.offset, letter.refused, time()
                )
                futures.append(await self._send(self._topics.deadletter, None, dead))
            await asyncio.gather(*futures)
            entries: list[tuple[bytes, int, bytes | None]] = [
                (_ADMITTED + f"{a.epoch}/{a.day}".encode(), out.checkpoint.last, encode(a))
                for a in out.admitted
            ]
            await asyncio.gather(*await self._table.write(partition, entries))
            checkpoint = (_CHECKPOINT, out.checkpoint.last, encode(out.checkpoint))
            await asyncio.gather(*await self._table.write(partition, [checkpoint]))

    async def _send_panes(self, batch: PaneBatch) -> list[Awaitable[Any]]:
        routed: dict[int, list[PaneSnapshot]] = {}
        for pane in batch.panes:
            routed.setdefault(route(pane.view, pane.key, self._topics.partitions), []).append(pane)
        futures = []
        # Every partition hears of the watermark, lest one without panes of its own hold eviction up.
        for partition in range(self._topics.partitions):
            panes = routed.get(partition, [])
            for i in range(0, max(1, len(panes)), PANES_PER_MESSAGE):
                # Only the last part may say how far the source is: panes of the parts after it would be too late.
                watermark = batch.watermark if i + PANES_PER_MESSAGE >= len(panes) else 0.0
                part = msgspec.structs.replace(
                    batch, panes=panes[i : i + PANES_PER_MESSAGE], watermark=watermark
                )
                futures.append(await self._send(self._topics.panes, partition, part))
        return futures

    async def _send(self, topic: str, partition: int | None, value: object) -> Awaitable[Any]:
        future: Awaitable[Any] = await self._producer().send(
            topic, None, encode(value), partition, None, None
        )
        return future

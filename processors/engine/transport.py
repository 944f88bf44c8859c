"""Faust's aiokafka transport, with one Faust message for each fetched chunk of records.

Faust spends about 160 µs on every message it hands to an agent. For the topics in ``app.chunk_topics`` this
transport hands over a whole fetched run of records of one partition as one message, whose value is a ``Chunk``.
All other topics (changelogs above all) keep Faust's ways. Where a partition is read from is decided by the state and
not by the committed offset: ``app.positions`` is asked after every recovery.

The methods overridden here are private to Faust 0.15.3; ``tests/unit/test_engine_seam.py`` notices when they move.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any, NamedTuple

from faust.transport.drivers import aiokafka as driver
from faust.types import TP, ConsumerMessage


class Chunk(NamedTuple):
    """A contiguous run of records of one partition, as aiokafka gives them; never empty."""

    topic: str
    partition: int
    records: list[Any]


class Consumer(driver.Consumer):
    """Hands over chunks instead of records, and begins where the state ends."""

    async def getmany(self, timeout: float) -> AsyncIterator[tuple[TP, Any]]:  # noqa: ASYNC109 — Faust's signature
        """Yield (partition, message); a message of a chunk topic holds a ``Chunk``."""
        records, active = await self._wait_next_records(timeout)
        generation = self.app.consumer_generation_id
        if records is None or self.should_stop:
            return
        if not self.flow_active:
            return  # a rebalance has begun; its recovery ends with a seek, so nothing is lost by letting go
        chunk_topics: frozenset[str] = self.app.chunk_topics
        for tp, batch in records.items():
            wanted = active is None or tp in active or tp in self._buffered_partitions
            if not batch or not wanted:
                continue
            messages = (
                [self._chunk_message(tp, batch)]
                if tp.topic in chunk_topics
                else [self._to_message(tp, record) for record in batch]
            )
            for message in messages:
                if not self.flow_active or self.app.consumer_generation_id != generation:
                    return
                yield tp, message

    def _chunk_message(self, tp: TP, batch: list[Any]) -> ConsumerMessage:
        last = batch[-1]
        return ConsumerMessage(
            tp.topic,
            tp.partition,
            last.offset,
            last.timestamp / 1000,
            last.timestamp_type,
            (),
            None,
            Chunk(tp.topic, tp.partition, batch),
            None,
            0,
            0,
            TP(tp.topic, tp.partition),
            generation_id=self.app.consumer_generation_id,
        )

    async def perform_seek(self) -> None:
        """Seek to where the state ends; topics without state go to their committed offset."""
        await super().perform_seek()
        positions = await self.app.positions(self, self.assignment())
        if positions:
            await self.seek_wait(positions)
            for tp, offset in positions.items():
                # Faust drops what lies below the offset it read last, which after a seek backwards is all of it.
                self._read_offset[tp] = offset or None
                self._acked.pop(tp, None)
                self._acked_index.pop(tp, None)
                self._gap.pop(tp, None)


class Transport(driver.Transport):
    """Registered for the URL scheme ``tidegauge``."""

    Consumer = Consumer

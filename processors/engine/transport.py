"""Faust's aiokafka transport, with one Faust message for each fetched chunk of records.

Faust spends about 160 µs on every message it hands to an agent. For the topics in ``app.chunk_topics`` this
transport hands over a whole fetched run of records of one partition as one message, whose value is a ``Chunk``.
All other topics (changelogs above all) keep Faust's ways. Where a partition is read from is decided by the state and
not by the committed offset: ``app.positions`` is asked after every recovery.

The methods overridden here are private to Faust 0.15.3; ``tests/unit/test_engine_seam.py`` notices when they move.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from time import monotonic
from typing import Any, Final, NamedTuple

from aiokafka.consumer.fetcher import FetchResult
from faust.transport.drivers import aiokafka as driver
from faust.types import TP, ConsumerMessage

_WAIT_BUSY: Final = 5
_WAIT_IDLE: Final = 250
"""Milliseconds that Kafka may wait for records before it answers that there are none.

aiokafka asks only for partitions whose last answer has been taken, and one question at a time. So while chunks of the
busy partitions wait to be taken, it asks for the silent ones alone, and until Kafka has answered that (Faust allows
1.5 s) nothing else can be fetched. Where nothing comes, the long wait saves questions and delays nothing.
"""


_DOUBTS: Final = 3
"""How often a gap is asked about before it is believed. Two fetches may have been under way: one at either seek."""


class Chunk(NamedTuple):
    """A contiguous run of records of one partition; never empty.

    The records are those of aiokafka's parser: they have ``offset``, ``timestamp`` (ms), ``key`` and ``value``, but
    know nothing of topic and partition. Wrapping each into a ``ConsumerRecord`` costs as much as decoding it.
    """

    topic: str
    partition: int
    records: list[Any]
    seek: int
    """Of ``Continuity.seek``, when it was handed over."""
    follows: int = 0
    """The offset behind what was handed over before it."""


class Extent(NamedTuple):
    """What Kafka holds of a partition: its first offset, and the one after its last."""

    earliest: int
    end: int


class Continuity:
    """Notices records that were fetched from somewhere else than where the state ends.

    A fetch that was under way when a partition was assigned began at the committed offset. It may be handed over
    before the seek to the state's end and wait for the agent until after it (``is_current`` tells), or come in after
    it (``gap``). Taken in, it would hide all records in between for good. A log may have real gaps, too (markers of
    transactions, what retention removed): what comes again and again is one.

    What was handed over may be lost on its way to the agent: Faust clears the agents' queues when it resumes after a
    rebalance, and drops what lies below an offset that it notes too late. Who takes a chunk can tell by ``follows``
    that one before it is missing; where nothing comes after it, ``handed`` is ahead of the state.
    """

    def __init__(self) -> None:
        self._seeks: dict[TP, int] = {}
        self._next: dict[TP, int] = {}
        self._doubted: dict[TP, tuple[int, int]] = {}

    def begin(self, positions: Mapping[TP, int]) -> None:
        """These partitions go on at these offsets, and whatever was handed over before comes again."""
        self._next.update(positions)
        for tp in positions:
            self._seeks[tp] = self.seek(tp) + 1
            self._doubted.pop(tp, None)

    def seek(self, tp: TP) -> int:
        """How many seeks of a partition there were."""
        return self._seeks.get(tp, 0)

    def handed(self, tp: TP) -> int:
        """The offset behind the last record that was handed over."""
        return self._next.get(tp, 0)

    def gap(self, tp: TP, first: int) -> int | None:
        """Where to seek to before a run that begins with offset ``first`` can be believed; ``None``: it can."""
        expected = self._next.get(tp)
        if expected is None or first <= expected:
            return None
        doubted, times = self._doubted.get(tp, (first, 0))
        if doubted == first and times == _DOUBTS:
            return None
        self._doubted[tp] = (first, times + 1 if doubted == first else 1)
        return expected

    def is_current(self, chunk: Chunk) -> bool:
        """Whether a chunk was handed over after the last seek; drop it otherwise."""
        return chunk.seek == self.seek(TP(chunk.topic, chunk.partition))

    def took(self, tp: TP, last: int) -> None:
        """A run up to this offset has been handed over."""
        self._next[tp] = max(last + 1, self._next.get(tp, 0))
        self._doubted.pop(tp, None)


class ConsumerThread(driver.AIOKafkaConsumerThread):
    """Takes the records of chunk topics as aiokafka's parser gives them, and renews the app's lease."""

    async def on_start(self) -> None:
        """Start the consumer."""
        await super().on_start()
        coordinator: Any = self._consumer._coordinator
        ask = coordinator._do_heartbeat

        async def heartbeat() -> bool:
            asked = monotonic()
            answered = bool(await ask())
            if answered:
                self.consumer.app.lease.renew(asked)
            return answered

        coordinator._do_heartbeat = heartbeat

    async def _fetch_records(
        self,
        consumer: Any,
        active_partitions: set[TP],
        timeout: float | None = None,  # noqa: ASYNC109 — Faust's signature
        max_records: int | None = None,
    ) -> Any:
        records = await self._take_fetched(consumer, active_partitions, max_records)
        if records or not timeout:
            return records
        # Waited for here and not in the fetcher, which would hand over what comes before we can see it.
        waiter = consumer._fetcher._create_fetch_waiter()
        await asyncio.wait([waiter], timeout=timeout)
        if not waiter.done():
            waiter.cancel()
            return {}
        waiter.result()  # raises what Kafka refuses us
        return await self._take_fetched(consumer, active_partitions, max_records)

    async def _take_fetched(self, consumer: Any, active_partitions: set[TP], max_records: int | None) -> Any:
        for tp, result in consumer._fetcher._records.items():
            if (
                tp.topic in self.consumer.app.chunk_topics
                and type(result) is FetchResult
                and result.has_more()
            ):
                result._partition_records._consumer_record = _unwrapped
        records = await super()._fetch_records(consumer, active_partitions, 0, max_records)
        consumer._fetcher._fetch_max_wait_ms = _WAIT_BUSY if records else _WAIT_IDLE
        return records


def _unwrapped(tp: TP, record: Any) -> Any:
    return record


class Consumer(driver.Consumer):
    """Hands over chunks instead of records, and begins where the state ends."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.continuity = Continuity()

    def _new_consumer_thread(self) -> ConsumerThread:
        return ConsumerThread(self, loop=self.loop, beacon=self.beacon)

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
            if tp.topic in chunk_topics:
                missing_from = self.continuity.gap(tp, batch[0].offset)
                if missing_from is not None:
                    await self.seek_wait({tp: missing_from})
                    continue
                messages = [self._chunk_message(tp, batch)]
            else:
                messages = [self._to_message(tp, record) for record in batch]
            for message in messages:
                if not self.flow_active or self.app.consumer_generation_id != generation:
                    return
                if tp.topic in chunk_topics:
                    self.continuity.took(tp, batch[-1].offset)
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
            Chunk(tp.topic, tp.partition, batch, self.continuity.seek(tp), self.continuity.handed(tp)),
            None,
            0,
            0,
            TP(tp.topic, tp.partition),
            generation_id=self.app.consumer_generation_id,
        )

    def end(self, tp: TP) -> int | None:
        """The offset after a partition's last record, as its last fetch told; ``None`` of one that is not ours."""
        try:
            end: int | None = self.highwater(tp)
        except AssertionError:  # aiokafka's answer where the partition has just become somebody else's
            return None
        return end

    async def perform_seek(self) -> None:
        """Seek to where the state ends; topics without state go to their committed offset."""
        await super().perform_seek()
        await self.read_from(await self.app.positions(self, self.assignment()))

    async def read_from(self, positions: Mapping[TP, int]) -> None:
        """Read these partitions on from these offsets, whatever of them is on its way."""
        if not positions:
            return
        self.continuity.begin(positions)
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

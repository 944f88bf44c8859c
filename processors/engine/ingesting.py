"""The first stage on Faust: applies chunks, delivers what a flush yields, stores checkpoints."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable
from time import monotonic, time
from typing import Any

from tidegauge.processors.core.cardinality import Admitted
from tidegauge.processors.core.ingest import Checkpoint, Ingest, IngestConfig
from tidegauge.processors.core.kinds import Kind
from tidegauge.processors.core.merge import route
from tidegauge.processors.core.messages import admitted_messages, pane_messages
from tidegauge.processors.core.poison import entries, find
from tidegauge.processors.core.pricing import PriceTable
from tidegauge.processors.core.stored import admission_key, checkpoint_key, ingest_state
from tidegauge.schemas.codec import Codec, encode
from tidegauge.schemas.pane import PaneBatch, PaneSnapshot
from tidegauge.settings import Settings
from tidegauge.sinks.deadletter import letter_of_event

from .state import StateTable
from .transport import Chunk, Extent

Entry = tuple[bytes, int, bytes | None]
"""Key, version and value of something for the state table; no value deletes it."""


class Ingesting:
    """All source partitions of one topic of events that this worker owns.

    Args:
        kind: what the topic carries.
        settings: topics and rules.
        prices: unit prices.
        table: where checkpoints go.
        producer: gives Faust's producer; each delivery is awaited.
        start_over: has all state be read again.
    """

    def __init__(
        self,
        kind: Kind,
        settings: Settings,
        prices: PriceTable,
        table: StateTable,
        producer: Callable[[], Any],
        start_over: Callable[[], Awaitable[None]],
    ) -> None:
        worker = settings.worker
        self.topic: str = getattr(settings.topics, kind.name)
        self._kind = kind
        self._topics = settings.topics
        self._config = IngestConfig.of(worker)
        self._idle_after = worker.idle_after
        self._prices = prices
        self._table = table
        self._producer = producer
        self._start_over = start_over
        self._partitions: dict[int, Ingest] = {}
        self._locks: dict[int, asyncio.Lock] = {}
        self._quiet_since: dict[int, float] = {}
        self._idle: set[int] = set()
        self._undelivered: set[int] = set()
        self._stored_at: dict[int, float] = {}
        self._admissions: dict[int, dict[bytes, list[bytes]]] = {}
        self.delivered: dict[int, int] = {}
        """The last offset of each panes partition that this worker's snapshots got."""
        self.applied = 0
        """Events folded since this worker started."""
        self._careful: dict[int, int] = {}
        self.ending = False
        """Whether what comes from now on is left to who starts next."""
        self._outcomes: Counter[str] = Counter()

    def restore(self, partition: int, values: dict[bytes, bytes], extent: Extent) -> int:
        """Take over a partition and return where to read it from.

        Args:
            partition: of the topic.
            values: what the state table holds of it.
            extent: what Kafka holds of it.
        """
        stored = ingest_state(self._kind.name, partition, values)
        self._admissions[partition] = stored.keys
        ingest = Ingest(
            self.topic,
            partition,
            self._config,
            self._prices,
            stored.checkpoint,
            stored.admitted,
            self._kind,
            stored.poison,
        )
        lost = ingest.skip_to(extent.earliest)
        if lost:
            # Retention was faster than us: say so where on-call looks, there is nothing left to read.
            self._table.log.error(
                "%d records of %s/%d expired before they were read", lost, self.topic, partition
            )
        self._partitions[partition] = ingest
        self._locks[partition] = asyncio.Lock()
        self._stored_at[partition] = monotonic()
        self._wake(partition)
        return ingest.position

    def position(self, partition: int) -> int | None:
        """Where to go on reading, or ``None`` of a partition that is not ours."""
        ingest = self._partitions.get(partition)
        return None if ingest is None else ingest.position

    def positions(self) -> dict[int, int]:
        """Where to go on reading in each partition that is ours."""
        return {partition: ingest.position for partition, ingest in self._partitions.items()}

    def outcomes(self) -> Counter[str]:
        """Events read since this worker started, those read again included, by what became of them."""
        return sum((ingest.outcomes for ingest in self._partitions.values()), self._outcomes)

    def watermarks(self) -> dict[int, float]:
        """The greatest event time (Unix seconds) of each partition that is ours and had an event."""
        return {partition: i.watermark for partition, i in self._partitions.items() if i.watermark}

    def checkpoint_age(self) -> float:
        """Seconds since all that was taken in was last known to be stored, of the partition it is longest ago for."""
        now = monotonic()
        for partition, ingest in self._partitions.items():
            # What a restart made us read again is stored already.
            if partition not in self._undelivered and (ingest.catching_up or not ingest.pending):
                self._stored_at[partition] = now
        return max((now - stored for stored in self._stored_at.values()), default=0.0)

    def keep(self, partitions: set[int]) -> None:
        """Forget the partitions that others own now."""
        for partition in set(self._partitions) - partitions:
            self._outcomes += self._partitions[partition].outcomes  # a count must never go back
            del self._partitions[partition], self._locks[partition], self._quiet_since[partition]
            del self._stored_at[partition]
            del self._admissions[partition]
            self._idle.discard(partition)
            self._undelivered.discard(partition)

    async def apply(self, chunk: Chunk) -> None:
        """Fold one chunk; delivers an ended epoch before going on, which bounds memory."""
        ingest = self._partitions.get(chunk.partition)
        if ingest is None or self.ending:
            return  # revoked while the chunk waited, or about to be; its new owner reads it
        self._wake(chunk.partition)
        if chunk.partition in self._careful:
            await self._find_poison(chunk, ingest)
        try:
            self.applied += ingest.apply(chunk.records)
        except Exception as error:
            await self._doubt(chunk.partition, chunk.records[-1].offset, error)
            return
        if ingest.sealed:
            await self.flush(chunk.partition)

    async def flush_all(self, *, whole: bool = False) -> None:
        """Deliver everything that is pending; ``whole``: wide panes before their turn."""
        await asyncio.gather(*(self.flush(partition, whole=whole) for partition in list(self._partitions)))

    async def flush(self, partition: int, *, whole: bool = False) -> None:
        """Deliver one partition's changes, and store how far that is; raises what Kafka's producer raises."""
        lock = self._locks.get(partition)
        ingest = self._partitions.get(partition)
        if lock is None or ingest is None:
            return
        kept = self._admissions[partition]  # now: the partition may be given up while something is awaited
        async with lock:
            if not ingest.pending or ingest.catching_up or partition in self._undelivered:
                return
            # Stays where a delivery fails or is cut off: what it took is gone from here, and a checkpoint stored
            # after it would say otherwise. Whoever starts next delivers it.
            self._undelivered.add(partition)
            begun = monotonic()
            try:
                out = ingest.flush(monotonic(), whole=whole)
            except Exception as error:
                await self._doubt(partition, ingest.position - 1, error)
                return
            sent: list[tuple[int, Awaitable[Any]]] = []
            for batch in out.batches:
                sent += await self._send_panes(batch)
            letters: list[Awaitable[Any]] = []
            for letter in out.letters:
                dead = letter_of_event(self.topic, partition, letter.offset, letter.refused, time())
                letters.append(await self._send(self._topics.deadletter, None, encode(dead)))
            await self._arrive(sent)
            await asyncio.gather(*letters)
            last = out.checkpoint.last
            entries = [entry for a in out.admitted for entry in self._admit(kept, a, last)]
            checkpoint: Entry = (checkpoint_key(self._kind.name), last, encode(out.checkpoint))
            gone: list[Entry] = [
                (key, last, None)
                for name in out.forgotten
                for key in kept.pop(admission_key(self._kind.name, *name), [])
            ]
            for step in (entries, [checkpoint], gone):
                await asyncio.gather(*await self._table.write(partition, step))
            self._undelivered.discard(partition)
            if self._partitions.get(partition) is ingest:
                self._stored_at[partition] = begun

    async def _doubt(self, partition: int, upto: int, error: Exception) -> None:
        """Our own code has raised: read again from the stored state, and look for the events that made it.

        Raises:
            Exception: the one given, where that has been done already.
        """
        if upto <= self._careful.get(partition, -1):
            raise error
        self._table.log.error(
            "%s/%d: %s was raised while events up to offset %d were processed; they are read again, one by one",
            self.topic,
            partition,
            type(error).__name__,
            upto,
            exc_info=error,
        )
        self._careful[partition] = upto
        await self._start_over()

    async def _find_poison(self, chunk: Chunk, ingest: Ingest) -> None:
        """Leave out of the log what cannot be processed, and remember that before anything of the chunk is folded."""

        def begin(offset: int) -> Ingest:
            at = Checkpoint(previous=offset, epoch=offset)
            return Ingest(self.topic, chunk.partition, self._config, self._prices, at, (), self._kind)

        records = [record for record in chunk.records if record.offset >= ingest.position]
        places = find(begin, Codec(self._kind.wire), records)
        for place in places:
            ingest.poison.add(place)
        await asyncio.gather(*await self._table.write(chunk.partition, entries(self._kind.name, places)))
        if chunk.records[-1].offset >= self._careful[chunk.partition]:
            del self._careful[chunk.partition]

    async def say_idle(self, at_end: Callable[[str, int], bool]) -> None:
        """Let the second stage leave out the partitions that are silent, until they speak again.

        Args:
            at_end: whether a topic's partition has been read to its end.
        """
        for partition, ingest in list(self._partitions.items()):
            silent = monotonic() - self._quiet_since[partition] >= self._idle_after
            if partition in self._idle or not silent or not at_end(self.topic, partition):
                continue
            async with self._locks[partition]:
                if self._quiet(partition, ingest):
                    await self._arrive(await self._send_panes(ingest.idle()))
                    self._idle.add(partition)

    def _quiet(self, partition: int, ingest: Ingest) -> bool:
        # Asked again under the lock: the partition may have spoken, or gone, while a delivery was waited for.
        return (
            self._partitions.get(partition) is ingest
            and monotonic() - self._quiet_since[partition] >= self._idle_after
            and not ingest.pending
            and not ingest.catching_up
        )

    def _wake(self, partition: int) -> None:
        self._quiet_since[partition] = monotonic()
        self._idle.discard(partition)

    def _admit(self, kept: dict[bytes, list[bytes]], admitted: Admitted, version: int) -> list[Entry]:
        """The state entries of one epoch's admissions of a day: one, or as many as do not fit into one message."""
        messages = admitted_messages(admitted)
        keys = [
            admission_key(self._kind.name, admitted.epoch, admitted.day, part)
            for part in range(len(messages))
        ]
        kept[keys[0]] = keys
        return [(key, version, message) for key, message in zip(keys, messages, strict=True)]

    async def _send_panes(self, batch: PaneBatch) -> list[tuple[int, Awaitable[Any]]]:
        routed: dict[int, list[PaneSnapshot]] = {}
        for pane in batch.panes:
            routed.setdefault(route(pane.view, pane.key, self._topics.partitions), []).append(pane)
        futures = []
        # Every partition hears of the watermark, lest one without panes of its own hold eviction up.
        for partition in range(self._topics.partitions):
            futures += [
                (partition, await self._send(self._topics.panes, partition, message))
                for message in pane_messages(batch, routed.get(partition, []))
            ]
        return futures

    async def _arrive(self, sent: list[tuple[int, Awaitable[Any]]]) -> None:
        acknowledged = await asyncio.gather(*(future for _, future in sent))
        for (partition, _), metadata in zip(sent, acknowledged, strict=True):
            self.delivered[partition] = max(self.delivered.get(partition, -1), metadata.offset)

    async def _send(self, topic: str, partition: int | None, value: bytes) -> Awaitable[Any]:
        future: Awaitable[Any] = await self._producer().send(topic, None, value, partition, None, None)
        return future

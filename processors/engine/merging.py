"""The second stage on Faust: merges snapshots, writes points to the store, checkpoints."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from time import time
from typing import Any, Final

import msgspec

from tidegauge.errors import SinkUnavailableError
from tidegauge.processors.core.aggregate import Aggregate
from tidegauge.processors.core.merge import Key, Merge, Shard
from tidegauge.processors.core.views import View
from tidegauge.schemas.codec import encode
from tidegauge.schemas.deadletter import DeadLetter
from tidegauge.schemas.pane import PaneBatch
from tidegauge.settings import Settings
from tidegauge.sinks.base import Point, Rejection, Store

from .state import StateTable
from .transport import Chunk

_POSITION = b"merge"
_PANE = b"pane/"
_POINTS_PER_WRITE: Final = 5_000
_MAX_RETRY_WAIT: Final = 30.0


class Progress(msgspec.Struct, frozen=True):
    """How far a panes partition is: the next offset, and what was given up (see ``Merge.evicted``)."""

    position: int
    evicted: float


def points(view: View, start: int, key: Key, aggregate: Aggregate) -> list[Point]:
    """The points of one pane, one for each measurement of its view."""
    tags = dict(zip(view.dimensions, key, strict=True))
    return [
        Point(m.name, tags, start, view.fields(m, aggregate) | view.sketch_fields(m, aggregate))
        for m in view.measurements
    ]


class Merging:
    """All panes partitions that this worker owns.

    Args:
        settings: topics and rules.
        store: where points go; called in a thread of its own.
        table: where pane states go.
        producer: gives Faust's producer.
    """

    def __init__(
        self, settings: Settings, store: Store, table: StateTable, producer: Callable[[], Any]
    ) -> None:
        self._settings = settings
        self._store = store
        self._table = table
        self._producer = producer
        self._merges: dict[int, Merge] = {}
        self._positions: dict[int, int] = {}
        self._decode = msgspec.json.Decoder(PaneBatch).decode
        self._thread = ThreadPoolExecutor(1, "tidegauge-store")
        self._exporting = asyncio.Lock()
        self.stored = 0
        """Points acknowledged by the store since this worker started."""

    def restore(self, partition: int, values: dict[bytes, bytes], earliest: int) -> int:
        """Take over a partition and return where to read it from; see ``Ingesting.restore``."""
        worker = self._settings.worker
        raw = values.get(_POSITION)
        progress = msgspec.json.decode(raw, type=Progress) if raw else Progress(earliest, 0.0)
        # Intake panes are of Kafka's time, which the watermark may be ahead of by the tolerance.
        horizon = max(worker.allowed_lateness, worker.future_tolerance)
        merge = Merge(horizon, self._settings.topics.partitions, progress.evicted)
        merge.restore(
            msgspec.json.decode(value, type=Shard) for key, value in values.items() if key.startswith(_PANE)
        )
        self._merges[partition] = merge
        self._positions[partition] = max(earliest, progress.position)
        return self._positions[partition]

    def position(self, partition: int) -> int | None:
        """Where to go on reading, or ``None`` of a partition that is not ours."""
        return self._positions.get(partition)

    def keep(self, partitions: set[int]) -> None:
        """Forget the partitions that others own now."""
        for partition in set(self._merges) - partitions:
            del self._merges[partition], self._positions[partition]

    @property
    def backlog(self) -> int:
        """Panes that the store has not been given yet."""
        return sum(merge.backlog for merge in self._merges.values())

    def apply(self, chunk: Chunk) -> None:
        """Take in one chunk of the panes topic."""
        merge = self._merges.get(chunk.partition)
        if merge is None:
            return
        position = self._positions[chunk.partition]
        for record in chunk.records:
            if record.offset >= position:
                merge.apply(self._decode(record.value))
                position = record.offset + 1
        self._positions[chunk.partition] = position

    async def export(self) -> None:
        """Write every changed pane to the store; returns when all of them are acknowledged."""
        async with self._exporting:
            for merge in list(self._merges.values()):
                batch: list[Point] = []
                for n, pane in enumerate(merge.changed()):
                    batch += points(*pane)
                    if len(batch) >= _POINTS_PER_WRITE:
                        await self._write(batch)
                        batch = []
                    elif n % 200 == 199:
                        await asyncio.sleep(0)  # rendering percentiles is slow; let chunks through
                if batch:
                    await self._write(batch)

    async def checkpoint(self) -> None:
        """Export, then store the pane states and how far they go."""
        positions = dict(self._positions)
        await self.export()
        for partition, position in positions.items():
            merge = self._merges.get(partition)
            if merge is None:
                continue
            version = self._positions[partition]
            entries: list[tuple[bytes, int, bytes | None]] = [
                (_PANE + name.encode(), version, encode(shard)) for name, shard in merge.unsaved()
            ]
            gone: list[tuple[bytes, int, bytes | None]] = [
                (_PANE + name.encode(), version, None) for name in merge.evict()
            ]
            if not entries and not gone:
                continue
            progress = (_POSITION, position, encode(Progress(position, merge.evicted)))
            # In this order: panes before the position that skips them, and what was given up before it is gone.
            for step in (entries, [progress], gone):
                await asyncio.gather(*await self._table.write(partition, step))

    def close(self) -> None:
        """Wait for the write in flight and close the store."""
        self._thread.shutdown(wait=True)
        self._store.close()

    async def _write(self, batch: list[Point]) -> None:
        wait = 0.5
        while True:
            try:
                refused = await asyncio.get_running_loop().run_in_executor(
                    self._thread, self._store.write, batch
                )
                break
            except SinkUnavailableError as error:
                self._table.log.warning("store: %s; trying again in %.1f s", error, wait)
                await asyncio.sleep(min(error.retry_after or wait, _MAX_RETRY_WAIT))
                wait = min(wait * 2, _MAX_RETRY_WAIT)
        self.stored += len(batch) - len(refused)
        for rejection in refused:
            future = await self._producer().send(
                self._settings.topics.deadletter, None, encode(_letter(rejection)), None, None, None
            )
            await future


def _letter(rejection: Rejection) -> DeadLetter:
    point = rejection.point
    payload = encode({"tags": point.tags, "time": point.time, "fields": point.fields})
    return DeadLetter(
        point.measurement, -1, -1, "store_refused", "", rejection.reason[:256], time(), payload, len(payload)
    )

"""The second stage on Faust: merges snapshots, writes points to the store, checkpoints.

Two workers may believe for a moment that a partition is theirs: one that was frozen, and the one that has taken over.
Both know the same log, so what they send through Kafka is told apart by its versions. The store knows none. So

- nothing is written of a partition before all of its log has been read that was there when it became ours: what an
  earlier owner stored is never replaced by something older;
- nothing is written once Kafka may have given the partition away (``Lease``);
- where it turns out that a write was under way at that moment, the panes are named on the panes topic, and their
  owner stores them again.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from time import monotonic, time
from typing import Any, Final, NamedTuple

import msgspec

from tidegauge.errors import SinkUnavailableError
from tidegauge.processors.core.kinds import KINDS
from tidegauge.processors.core.merge import Bounds, Merge
from tidegauge.processors.core.stored import restored
from tidegauge.processors.core.views import VIEWS
from tidegauge.processors.core.waiting import Name
from tidegauge.schemas.codec import encode
from tidegauge.schemas.deadletter import DeadLetter
from tidegauge.schemas.pane import PaneBatch
from tidegauge.schemas.rebuilt import RebuiltAnswer, RebuiltBatch
from tidegauge.schemas.rewrite import RewriteBatch, RewrittenPane
from tidegauge.settings import Settings
from tidegauge.sinks.base import Point, Rejection
from tidegauge.sinks.panes import points, read_panes

from .lease import Lease
from .state import StateTable
from .storage import Storage
from .transport import Chunk, Extent

_PROGRESS = b"merge"
_PANE = b"pane/"
_POINTS_PER_WRITE: Final = 5_000
_NAMES_PER_MESSAGE: Final = 500  # of panes; the longest take a kilobyte and more each
# Between two of these, chunks are let through: merging and rendering percentiles, and packing shards, is slow.
_PANES_AT_A_TIME: Final = 100
_SHARDS_AT_A_TIME: Final = 32


class Progress(msgspec.Struct, frozen=True):
    """How far a panes partition is: the next offset, and what goes with the stored panes."""

    position: int
    bounds: Bounds


class _Pane(NamedTuple):
    """A pane on its way to the store, and of whose knowledge it is."""

    partition: int
    merge: Merge
    name: Name
    points: list[Point]


class Merging:
    """All panes partitions that this worker owns.

    Args:
        settings: topics and rules.
        storage: where points go.
        lease: how long the partitions are ours.
        table: where pane states go.
        producer: gives Faust's producer.
    """

    def __init__(
        self,
        settings: Settings,
        storage: Storage,
        lease: Lease,
        table: StateTable,
        producer: Callable[[], Any],
    ) -> None:
        self.topic = settings.topics.panes
        self.storage = storage
        self._settings = settings
        self._lease = lease
        self._table = table
        self._producer = producer
        self._merges: dict[int, Merge] = {}
        self._positions: dict[int, int] = {}
        self._frontier: dict[int, int] = {}
        self._saved: dict[int, int] = {}
        self._told: dict[int, int] = {}
        self._kept: dict[int, float] = {}
        self._decode = msgspec.json.Decoder(PaneBatch | RebuiltBatch | RebuiltAnswer | RewriteBatch).decode
        self._answers: list[tuple[int, RebuiltAnswer]] = []
        self._exporting = asyncio.Lock()
        self._applying = asyncio.Lock()
        self._moved = asyncio.Event()
        # Stays where a write fails or is cut off: what was to be written is gone from here, and progress stored after
        # it would say otherwise. Whoever starts next writes it, be it ourselves after ``keep``.
        self._cut_off: set[Merge] = set()

    def restore(self, partition: int, values: dict[bytes, bytes], extent: Extent) -> int:
        """Take over a partition and return where to read it from; see ``Ingesting.restore``."""
        worker = self._settings.worker
        raw = values.get(_PROGRESS)
        progress = (
            restored(raw, Progress, partition, _PROGRESS) if raw else Progress(extent.earliest, Bounds())
        )
        # Intake panes are of Kafka's time, which the watermark may be ahead of by the tolerance.
        horizon = max(worker.allowed_lateness, worker.future_tolerance)
        sources = self._settings.topics.partitions * len(KINDS)
        merge = Merge(horizon, sources, progress.bounds)
        merge.restore(
            (key.removeprefix(_PANE).decode(), value)
            for key, value in values.items()
            if key.startswith(_PANE)
        )
        self._merges[partition] = merge
        self._positions[partition] = max(extent.earliest, progress.position)
        self._kept[partition] = monotonic()
        return self._positions[partition]

    def catch_up(self, partition: int, end: int) -> None:
        """Store nothing of a partition before it has been read up to this offset: others may have been there."""
        self._frontier[partition] = end

    def positions(self) -> dict[int, int]:
        """Where to go on reading in each partition that is ours."""
        return dict(self._positions)

    def checkpoint_age(self) -> float:
        """Seconds since all that was taken in was last known to be stored, of the partition it is longest ago for."""
        now = monotonic()
        for partition, position in self._positions.items():
            if self._saved.get(partition) == position:
                self._kept[partition] = now
        return max((now - kept for kept in self._kept.values()), default=0.0)

    def position(self, partition: int) -> int | None:
        """Where to go on reading, or ``None`` of a partition that is not ours."""
        return self._positions.get(partition)

    def keep(self, partitions: set[int]) -> None:
        """Forget the partitions that others own now."""
        for partition in set(self._merges) - partitions:
            self._cut_off.discard(self._merges[partition])
            del self._merges[partition], self._positions[partition]
            for known in (self._frontier, self._saved, self._kept, self._told):
                known.pop(partition, None)
        self._answers = [
            (partition, answer) for partition, answer in self._answers if partition in self._merges
        ]

    @property
    def backlog(self) -> int:
        """Panes that the store has not been given yet."""
        return sum(merge.backlog for merge in self._merges.values())

    async def apply(self, chunk: Chunk) -> None:
        """Take in one chunk of the panes topic."""
        async with self._applying:
            merge = self._merges.get(chunk.partition)
            if merge is None:
                return
            position = self._positions[chunk.partition]
            for record in chunk.records:
                if record.offset >= position:
                    self._take(chunk.partition, merge, self._decode(record.value))
                    position = record.offset + 1
            self._positions[chunk.partition] = position
            self._moved.set()

    async def reach(self, offsets: dict[int, int]) -> None:
        """Return once every owned partition's record at the offset given has been taken in."""
        while any(self._positions[p] <= offset for p, offset in offsets.items() if p in self._positions):
            self._moved.clear()
            await self._moved.wait()

    async def moved(self, timeout: float) -> None:  # noqa: ASYNC109 — a wait that ends in order
        """Return when snapshots come that were not exported yet, or after so many seconds."""
        if not self.backlog:
            self._moved.clear()
            with suppress(TimeoutError):
                await asyncio.wait_for(self._moved.wait(), timeout)

    async def export(self) -> None:
        """Write every changed pane to the store; returns when all of them are acknowledged."""
        async with self._exporting:
            ready = self._ready()
            await self._export(ready)
            self._cut_off.difference_update(ready.values())

    async def checkpoint(self) -> float:
        """Export, then store the pane states and how far they go; returns the seconds that storing them took."""
        async with self._exporting:
            ready = self._ready()
            positions = {partition: self._positions[partition] for partition in ready}
            await self._export(ready)
            started = monotonic()
            for partition, merge in ready.items():
                if positions[partition] != self._saved.get(partition):
                    await self._save(partition, merge, positions[partition])
            self._cut_off.difference_update(ready.values())
            return monotonic() - started

    def _take(
        self,
        partition: int,
        merge: Merge,
        message: PaneBatch | RebuiltBatch | RebuiltAnswer | RewriteBatch,
    ) -> None:
        if isinstance(message, PaneBatch):
            merge.apply(message)
        elif isinstance(message, RebuiltBatch):
            refused = merge.rebuild(message)
            self._answers.append((partition, RebuiltAnswer(message.rebuild, message.number, refused)))
        elif isinstance(message, RewriteBatch):
            names = [(pane.view, pane.start, pane.key) for pane in message.panes]
            for view, start, _ in merge.rewrite(names):
                self._table.log.warning(
                    "a pane of view %s at %d was given up when a worker may have written an older value over it:"
                    " tidegauge rebuild --from %d --to %d makes sure of it",
                    view,
                    start,
                    start,
                    start + VIEWS[view].width,
                )

    def _ready(self) -> dict[int, Merge]:
        """The partitions that may be written of; cut off from now on until the caller has done it all."""
        ready = {
            partition: merge
            for partition, merge in self._merges.items()
            if merge not in self._cut_off and self._positions[partition] >= self._frontier.get(partition, 0)
        }
        self._cut_off.update(ready.values())
        return ready

    def _is_ours(self, partition: int, merge: Merge) -> bool:
        return self._merges.get(partition) is merge

    async def _export(self, ready: dict[int, Merge]) -> None:
        answers = [entry for entry in self._answers if entry[0] in ready]
        self._answers = [entry for entry in self._answers if entry[0] not in ready]
        for partition, merge in ready.items():
            if await self._found(merge):
                # What the store held must be kept apart from what is added to it before the sum replaces it.
                await self._save_shards(partition, merge)
        left = [(partition, merge, merge.waiting.stamp) for partition, merge in ready.items()]
        batch: list[_Pane] = []
        number = 0
        while left := [entry for entry in left if not entry[1].waiting.taken_up_to(entry[2])]:
            for partition, merge, _ in left:  # in turn: the newest panes of all partitions come first
                for view, start, key, total in merge.changed(_PANES_AT_A_TIME):
                    pane = _Pane(partition, merge, (view.name, start, key), points(view, start, key, total))
                    batch.append(pane)
                    number += len(pane.points)
                await asyncio.sleep(0)
            if number >= _POINTS_PER_WRITE:
                await self._write(batch)
                batch, number = [], 0
        await self._write(batch)
        for partition, answer in answers:  # what they answer is in the store now, or was refused
            await self._publish(partition, answer)

    async def _write(self, batch: list[_Pane]) -> None:
        """Write panes until they are in the store, or somebody else's."""
        patience = self.storage.patience()
        refused = None
        while refused is None:
            await self._lease.held()
            batch = [pane for pane in batch if self._is_ours(pane.partition, pane.merge)]
            if not batch:
                return
            unavailable = None
            try:
                refused = await self.storage.write([point for pane in batch for point in pane.points])
            except SinkUnavailableError as error:
                unavailable = error
            await self._yield(
                [p for p in batch if self._lease.lost or not self._is_ours(p.partition, p.merge)]
            )
            if unavailable is not None:
                await patience.wait(unavailable)
        for rejection in refused:
            await self._send(self._settings.topics.deadletter, None, _letter(rejection))

    async def _yield(self, overtaken: list[_Pane]) -> None:
        """Let the owners of panes store them again that we may have written over."""
        by_partition: dict[int, list[RewrittenPane]] = {}
        for pane in overtaken:
            view, start, key = pane.name
            by_partition.setdefault(pane.partition, []).append(RewrittenPane(view, key, start))
        for partition, panes in by_partition.items():
            for i in range(0, len(panes), _NAMES_PER_MESSAGE):
                await self._publish(partition, RewriteBatch(panes[i : i + _NAMES_PER_MESSAGE]))

    async def _save(self, partition: int, merge: Merge, position: int) -> None:
        await self._lease.held()
        if not self._is_ours(partition, merge):
            return
        async with self._applying:
            # In one piece: the bounds must close nothing whose panes are not stored with them.
            await self._found(merge)
            gone, bounds = merge.evict(), merge.bounds
            version = self._positions.get(partition, position)
        self._tell(partition, merge)
        # In this order: panes before the position that skips them, and what was given up before it is gone.
        await self._save_shards(partition, merge)
        await self._keep_state(partition, [(_PROGRESS, position, encode(Progress(position, bounds)))])
        await self._keep_state(partition, [(_PANE + name.encode(), version, None) for name in gone])
        if self._is_ours(partition, merge):
            self._saved[partition] = position
            self._kept[partition] = monotonic()

    async def _save_shards(self, partition: int, merge: Merge) -> None:
        version = self._positions.get(partition, 0)
        futures: list[asyncio.Future[Any]] = []
        for n, (name, packed) in enumerate(merge.unsaved(), 1):
            futures += await self._table.write(partition, [(_PANE + name.encode(), version, packed)])
            if n % _SHARDS_AT_A_TIME == 0:
                await asyncio.sleep(0)
        await asyncio.gather(*futures)

    async def _keep_state(self, partition: int, entries: list[tuple[bytes, int, bytes | None]]) -> None:
        await asyncio.gather(*await self._table.write(partition, entries))

    async def _found(self, merge: Merge) -> bool:
        """Read from the store what panes held that had been given up and go on now; whether any must be saved."""
        starts: dict[tuple[str, int], list[Name]] = {}
        for name in merge.unfounded():
            starts.setdefault(name[:2], []).append(name)
        for (view, start), names in starts.items():
            held = await self.storage.ask(partial(read_panes, self.storage.store, VIEWS[view], start))
            for name in names:
                merge.found(name, held.get(name[2]))
        return merge.release() or bool(starts)

    def _tell(self, partition: int, merge: Merge) -> None:
        new = merge.late_panes - self._told.get(partition, 0)
        if new:
            self._told[partition] = merge.late_panes
            self._table.log.warning(
                "%d snapshots of panes that were given up came too late and are not counted: the first stage took"
                " events beyond worker.allowed_lateness; was that changed? tidegauge rebuild folds them in",
                new,
            )

    async def _publish(self, partition: int, message: RebuiltAnswer | RewriteBatch) -> None:
        await self._send(self.topic, partition, message)

    async def _send(self, topic: str, partition: int | None, message: object) -> None:
        await (await self._producer().send(topic, None, encode(message), partition, None, None))


def _letter(rejection: Rejection) -> DeadLetter:
    point = rejection.point
    payload = encode({"tags": point.tags, "time": point.time, "fields": point.fields})
    return DeadLetter(
        point.measurement, -1, -1, "store_refused", "", rejection.reason[:256], time(), payload, len(payload)
    )

"""The second stage on Faust: merges snapshots, writes points to the store, checkpoints."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from time import monotonic, time
from typing import Any, Final, TypeVar

import msgspec

from tidegauge.errors import SinkUnavailableError
from tidegauge.processors.core.kinds import KINDS
from tidegauge.processors.core.merge import Bounds, Merge
from tidegauge.processors.core.views import VIEWS
from tidegauge.processors.core.waiting import Name
from tidegauge.schemas.codec import encode
from tidegauge.schemas.deadletter import DeadLetter
from tidegauge.schemas.pane import PaneBatch
from tidegauge.schemas.rebuilt import RebuiltAnswer, RebuiltBatch
from tidegauge.settings import Settings
from tidegauge.sinks.base import Point, Rejection, Store
from tidegauge.sinks.panes import points, read_panes

from .state import StateTable
from .transport import Chunk, Extent

_PROGRESS = b"merge"
_PANE = b"pane/"
_POINTS_PER_WRITE: Final = 5_000
_MAX_RETRY_WAIT: Final = 30.0
# Between two of these, chunks are let through: merging and rendering percentiles, and packing shards, is slow.
_PANES_AT_A_TIME: Final = 100
_SHARDS_AT_A_TIME: Final = 32

T = TypeVar("T")


class Progress(msgspec.Struct, frozen=True):
    """How far a panes partition is: the next offset, and what goes with the stored panes."""

    position: int
    bounds: Bounds


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
        self.topic = settings.topics.panes
        self._settings = settings
        self._store = store
        self._table = table
        self._producer = producer
        self._merges: dict[int, Merge] = {}
        self._positions: dict[int, int] = {}
        self._frontier: dict[int, int] = {}
        self._saved: dict[int, int] = {}
        self._told: dict[int, int] = {}
        self._decode = msgspec.json.Decoder(PaneBatch | RebuiltBatch | RebuiltAnswer).decode
        self._answers: list[tuple[int, RebuiltAnswer]] = []
        self._thread = ThreadPoolExecutor(1, "tidegauge-store")
        self._exporting = asyncio.Lock()
        self._applying = asyncio.Lock()
        self._moved = asyncio.Event()
        # Stays where a write fails or is cut off: what was to be written is gone from here, and progress stored after
        # it would say otherwise. Whoever starts next writes it.
        self._cut_off = False
        self.stored = 0
        """Points acknowledged by the store since this worker started."""
        self.acknowledged: float | None = None
        """When (Unix seconds) the store last took a write."""
        self.store_away = ""
        """Why the store did not do what it was last asked; empty while it does."""
        self._kept: dict[int, float] = {}

    def restore(self, partition: int, values: dict[bytes, bytes], extent: Extent) -> int:
        """Take over a partition and return where to read it from; see ``Ingesting.restore``."""
        worker = self._settings.worker
        raw = values.get(_PROGRESS)
        progress = msgspec.json.decode(raw, type=Progress) if raw else Progress(extent.earliest, Bounds())
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
        self._frontier[partition] = extent.end
        self._kept[partition] = monotonic()
        return self._positions[partition]

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

    async def tell(self, batch: list[Point]) -> None:
        """Write points about the pipeline itself, once: a moment later they would say nothing new."""
        try:
            await asyncio.get_running_loop().run_in_executor(self._thread, self._store.write, batch)
            self.store_away = ""
        except SinkUnavailableError as error:
            self.store_away = str(error)

    def position(self, partition: int) -> int | None:
        """Where to go on reading, or ``None`` of a partition that is not ours."""
        return self._positions.get(partition)

    def keep(self, partitions: set[int]) -> None:
        """Forget the partitions that others own now."""
        for partition in set(self._merges) - partitions:
            del self._merges[partition], self._positions[partition], self._frontier[partition]
            self._saved.pop(partition, None)
            self._kept.pop(partition, None)
            self._told.pop(partition, None)

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
                    message = self._decode(record.value)
                    if isinstance(message, PaneBatch):
                        merge.apply(message)
                    elif isinstance(message, RebuiltBatch):
                        answer = RebuiltAnswer(message.rebuild, message.number, merge.rebuild(message))
                        self._answers.append((chunk.partition, answer))
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
            if not self._cut_off:
                self._cut_off = True
                await self._export()
                self._cut_off = False

    async def checkpoint(self) -> float:
        """Export, then store the pane states and how far they go; returns the seconds that storing them took."""
        async with self._exporting:
            if self._cut_off:
                return 0.0
            self._cut_off = True
            positions = dict(self._positions)
            await self._export()
            started = monotonic()
            for partition, position in positions.items():
                merge = self._merges.get(partition)
                if merge is not None and position != self._saved.get(partition):
                    await self._save(partition, merge, position)
            self._cut_off = False
            return monotonic() - started

    def close(self) -> None:
        """Wait for the write in flight and close the store."""
        self._thread.shutdown(wait=True)
        self._store.close()

    async def _export(self) -> None:
        answers, self._answers = self._answers, []
        for partition, merge in list(self._merges.items()):
            if await self._found(merge):
                # What the store held must be kept apart from what is added to it before the sum replaces it.
                await self._save_shards(partition, merge)
        left = [(merge, merge.waiting.stamp) for merge in self._merges.values()]
        batch: list[Point] = []
        while left := [(merge, stamp) for merge, stamp in left if not merge.waiting.taken_up_to(stamp)]:
            for merge, _ in left:  # in turn: the newest panes of all partitions come first
                for pane in merge.changed(_PANES_AT_A_TIME):
                    batch += points(*pane)
                await asyncio.sleep(0)
            if len(batch) >= _POINTS_PER_WRITE:
                await self._write(batch)
                batch = []
        if batch:
            await self._write(batch)
        for partition, answer in answers:  # what they answer is in the store now, or was refused
            await (await self._producer().send(self.topic, None, encode(answer), partition, None, None))

    async def _save(self, partition: int, merge: Merge, position: int) -> None:
        async with self._applying:
            # In one piece: the bounds must close nothing whose panes are not stored with them.
            await self._found(merge)
            # Up to here an earlier life may have written to the store what is in no state yet. Were panes given up
            # before that is read again, it would be taken for what others had written, and counted twice.
            caught_up = self._positions.get(partition, 0) >= self._frontier.get(partition, 0)
            gone, bounds = merge.evict() if caught_up else [], merge.bounds
        self._tell(partition, merge)
        # In this order: panes before the position that skips them, and what was given up before it is gone.
        await self._save_shards(partition, merge)
        progress = (_PROGRESS, position, encode(Progress(position, bounds)))
        await asyncio.gather(*await self._table.write(partition, [progress]))
        version = self._positions.get(partition, position)
        await asyncio.gather(
            *await self._table.write(partition, [(_PANE + name.encode(), version, None) for name in gone])
        )
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

    async def _found(self, merge: Merge) -> bool:
        """Read from the store what panes held that had been given up and go on now; whether any must be saved."""
        starts: dict[tuple[str, int], list[Name]] = {}
        for name in merge.unfounded():
            starts.setdefault(name[:2], []).append(name)
        for (view, start), names in starts.items():
            held = await self._ask_store(partial(read_panes, self._store, VIEWS[view], start))
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

    async def _write(self, batch: list[Point]) -> None:
        refused = await self._ask_store(partial(self._store.write, batch))
        self.stored += len(batch) - len(refused)
        self.acknowledged = time()
        for rejection in refused:
            future = await self._producer().send(
                self._settings.topics.deadletter, None, encode(_letter(rejection)), None, None, None
            )
            await future

    async def _ask_store(self, call: Callable[[], T]) -> T:
        """Call the store in its thread, again and again while it is unavailable."""
        wait = 0.5
        while True:
            try:
                answer = await asyncio.get_running_loop().run_in_executor(self._thread, call)
                self.store_away = ""
                return answer
            except SinkUnavailableError as error:
                self.store_away = str(error)
                self._table.log.warning("store: %s; trying again in %.1f s", error, wait)
                await asyncio.sleep(min(error.retry_after or wait, _MAX_RETRY_WAIT))
                wait = min(wait * 2, _MAX_RETRY_WAIT)


def _letter(rejection: Rejection) -> DeadLetter:
    point = rejection.point
    payload = encode({"tags": point.tags, "time": point.time, "fields": point.fields})
    return DeadLetter(
        point.measurement, -1, -1, "store_refused", "", rejection.reason[:256], time(), payload, len(payload)
    )

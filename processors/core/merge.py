"""The second stage for one partition of the panes topic: merges the source partitions' snapshots of each pane.

Of each source partition and epoch the newest snapshot counts; older ones, repeats and what a frozen worker sends
late change nothing. Every pane's state names the versions it holds, so it can be stored and restored at any moment,
pane by pane, and the panes topic read again from anywhere before.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from zlib import crc32

import msgspec

from tidegauge.schemas.pane import PaneBatch, PaneSnapshot, SketchSnapshot

from .aggregate import Aggregate
from .views import VIEWS, View

Key = tuple[str, ...]
SHARDS = 64


def route(view: str, key: Key, partitions: int) -> int:
    """The panes partition of a series: the same for all of its panes, whoever computes it."""
    return crc32("\x1f".join((view, *key)).encode(errors="surrogatepass")) % partitions


class Part(msgspec.Struct, array_like=True):
    """One source partition's share of a pane: sealed epochs' sum, and the current epoch's newest snapshot."""

    topic: str
    partition: int
    epoch: int
    last: int
    counters: list[int]
    sketches: list[SketchSnapshot]
    sealed_counters: list[int] = []
    sealed_sketches: list[SketchSnapshot] = []


class PaneState(msgspec.Struct, array_like=True):
    """All that is known of one pane."""

    key: Key
    parts: list[Part]


class Shard(msgspec.Struct):
    """Several panes of one view and start, stored as one value."""

    view: str
    start: int
    panes: list[PaneState]


class Merge:
    """Panes by view, start and key.

    Args:
        horizon: seconds that a pane is kept after its end, measured by the slowest source partition's watermark.
        sources: source partitions there are; before all of them were heard of, the slowest is not known.
        evicted: an earlier life's ``evicted``; without it a repeat of a pane given up would begin it anew, and
            what is left of it would replace the whole in the store.
    """

    def __init__(self, horizon: float, sources: int = 1, evicted: float = 0.0) -> None:
        self._horizon = horizon
        self._sources = sources
        self._panes: dict[tuple[str, int], dict[Key, PaneState]] = {}
        self._watermarks: dict[tuple[str, int], float] = {}
        self._evicted = evicted
        self._dirty: dict[tuple[str, int, Key], None] = {}
        self._unsaved: dict[tuple[str, int, int], None] = {}
        self.late_panes = 0
        """Snapshots refused because their pane had been given up."""

    def __len__(self) -> int:
        return sum(map(len, self._panes.values()))

    @property
    def evicted(self) -> float:
        """Panes that end by then (Unix seconds) were given up; store it before their shards are deleted."""
        return self._evicted

    @property
    def backlog(self) -> int:
        """Panes that the store has not been given yet."""
        return len(self._dirty)

    def apply(self, batch: PaneBatch) -> None:
        """Take in one source partition's snapshots."""
        source = (batch.topic, batch.partition)
        self._watermarks[source] = max(self._watermarks.get(source, 0.0), batch.watermark)
        for pane in batch.panes:
            self._apply(batch, pane)

    def restore(self, shards: Iterable[Shard]) -> None:
        """Take back what ``shards`` gave out; before the first ``apply``."""
        for shard in shards:
            panes = self._panes.setdefault((shard.view, shard.start), {})
            for pane in shard.panes:
                panes[pane.key] = pane
                for part in pane.parts:
                    self._watermarks.setdefault((part.topic, part.partition), 0.0)

    def changed(self) -> list[tuple[View, int, Key, Aggregate]]:
        """The panes that changed since the last call, merged."""
        dirty, self._dirty = self._dirty, {}
        return [(VIEWS[v], start, key, self._total(v, start, key)) for v, start, key in dirty]

    def unsaved(self) -> list[tuple[str, Shard]]:
        """The changed shards since the last call, each under a stable name."""
        unsaved, self._unsaved = self._unsaved, {}
        buckets: dict[tuple[str, int], dict[int, list[PaneState]]] = {}
        for view, start, _ in unsaved:
            if (view, start) not in buckets:
                split: dict[int, list[PaneState]] = {}
                for key, pane in self._panes.get((view, start), {}).items():
                    split.setdefault(_shard(key), []).append(pane)
                buckets[view, start] = split
        return [
            (f"{view}/{start}/{shard}", Shard(view, start, buckets[view, start].get(shard, [])))
            for view, start, shard in unsaved
        ]

    def evict(self) -> Iterator[str]:
        """Give up panes that no event in time can reach any more; yields the names of their shards."""
        if len(self._watermarks) < self._sources:
            return
        self._evicted = max(self._evicted, min(self._watermarks.values()) - self._horizon)
        waiting = {(view, start) for view, start, _ in self._dirty}
        for view, start in list(self._panes):
            if start + VIEWS[view].width <= self._evicted and (view, start) not in waiting:
                for shard in {_shard(key) for key in self._panes.pop((view, start))}:
                    self._unsaved.pop((view, start, shard), None)
                    yield f"{view}/{start}/{shard}"

    def _apply(self, batch: PaneBatch, pane: PaneSnapshot) -> None:
        view = VIEWS.get(pane.view)
        if view is None:
            return  # a newer worker's view; it will be merged by workers that know it
        if pane.start + view.width <= self._evicted:
            self.late_panes += 1
            return
        panes = self._panes.setdefault((pane.view, pane.start), {})
        state = panes.get(pane.key)
        if state is None:
            state = panes[pane.key] = PaneState(pane.key, [])
        # Even a repeat is handed to the store again: it may be the repeat after a crash before the write.
        self._dirty[pane.view, pane.start, pane.key] = None
        for part in state.parts:
            if part.partition == batch.partition and part.topic == batch.topic:
                if (batch.epoch, batch.last) <= (part.epoch, part.last):
                    return
                if batch.epoch > part.epoch:
                    _seal(part)
                part.epoch, part.last = batch.epoch, batch.last
                part.counters, part.sketches = pane.counters, pane.sketches
                break
        else:
            state.parts.append(
                Part(batch.topic, batch.partition, batch.epoch, batch.last, pane.counters, pane.sketches)
            )
        self._unsaved[pane.view, pane.start, _shard(pane.key)] = None

    def _total(self, view: str, start: int, key: Key) -> Aggregate:
        total = VIEWS[view].empty()
        for part in self._panes[view, start][key].parts:
            total.merge(Aggregate.restore(part.counters, part.sketches))
            if part.sealed_counters:
                total.merge(Aggregate.restore(part.sealed_counters, part.sealed_sketches))
        return total


def _seal(part: Part) -> None:
    if part.sealed_counters:
        total = Aggregate.restore(part.sealed_counters, part.sealed_sketches)
        total.merge(Aggregate.restore(part.counters, part.sketches))
        part.sealed_counters = total.counters
        part.sealed_sketches = [sketch.snapshot() for sketch in total.sketches]
    else:
        part.sealed_counters, part.sealed_sketches = part.counters, part.sketches


def _shard(key: Key) -> int:
    return crc32("\x1f".join(key).encode(errors="surrogatepass")) % SHARDS

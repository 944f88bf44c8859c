"""The second stage for one partition of the panes topic: merges the source partitions' snapshots of each pane.

Of each source partition and epoch the newest snapshot counts; older ones, repeats and what a frozen worker sends
late change nothing. Every pane's state names the versions it holds, so it can be stored and restored at any moment,
pane by pane, and the panes topic read again from anywhere before.

Panes are given up to bound memory, and no figure depends on when. What a source may still change is decided by its
own log, in the first stage: its watermark *closes* the panes it has passed by the horizon. A pane is given up when
the slowest source that is not idle has passed it, unless a source that has a part in it may still change that part.
So whatever comes for a pane that is gone is one of two things:

    source has closed the pane      a repeat, already part of what the store holds: refused
    source was idle then, and woke  new, and no part of what the store holds: the pane begins anew from there

For the latter the caller reads the store (``unfounded``, ``found``) and saves the pane before it writes it again, so
that the store's share is counted once. See docs/adr/0003.

``rebuild`` replaces what the sealed epochs of all sources hold of a pane, given up or not. It refuses panes of which
it cannot be told apart any more what was recomputed and what has come since. See docs/adr/0005.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from typing import Final
from zlib import crc32

import msgspec

from tidegauge.schemas.pane import PaneBatch, PaneSnapshot
from tidegauge.schemas.rebuilt import RebuiltBatch, RebuiltPane, RebuiltSource

from .aggregate import Aggregate
from .parts import part_of, replace, seal
from .shards import BASE, Key, PaneState, Part, Shard, ShardName, Source
from .views import VIEWS, View
from .waiting import Name, Waiting


def route(view: str, key: Key, partitions: int) -> int:
    """The panes partition of a series: the same for all of its panes, whoever computes it."""
    return crc32("\x1f".join((view, *key)).encode(errors="surrogatepass")) % partitions


UNKNOWN: Final = 2**62
"""Greater than any offset."""


class Bound(msgspec.Struct, array_like=True):
    """What one source has said of itself.

    Attributes:
        topic: the source topic.
        partition: its partition.
        closed: panes that end by then (Unix seconds) it will not change any more.
        idle: nothing new comes, so nobody needs to wait for it.
        epoch: its newest epoch heard of.
        last: how far that epoch was when it was last heard of; of states older than this field, nobody knows.
    """

    topic: str
    partition: int
    closed: float = 0.0
    idle: bool = False
    epoch: int = -1
    last: int = UNKNOWN


class Bounds(msgspec.Struct, frozen=True):
    """What must outlive a restart besides the panes: store it after them, and before what was given up is deleted.

    Attributes:
        evicted: panes that end by then (Unix seconds) may have been given up.
        sources: what each has said.
    """

    evicted: float = 0.0
    sources: list[Bound] = []


class Merge:
    """Panes by view, start and key.

    Args:
        horizon: seconds that a source may lag behind its own watermark.
        sources: source partitions there are; before all of them were heard of, the slowest is not known.
        bounds: an earlier life's ``bounds``.
    """

    def __init__(self, horizon: float, sources: int = 1, bounds: Bounds | None = None) -> None:
        bounds = bounds or Bounds()
        self._horizon = horizon
        self._expected = sources
        self._evicted = bounds.evicted
        self._sources: dict[Source, Bound] = {(b.topic, b.partition): b for b in bounds.sources}
        self._groups: dict[tuple[str, int], dict[int, Shard]] = {}
        self._awake: dict[ShardName, Shard] = {}
        self._unsaved: dict[ShardName, None] = {}
        self.waiting = Waiting()
        """The panes that changed and wait to be stored; those that wait for ``found`` not among them."""
        self._unfounded: dict[Name, None] = {}
        self._replaced: dict[Name, None] = {}
        self.repeats = 0
        """Snapshots refused because their source had closed a pane that was then given up."""
        self.late_panes = 0
        """Those of them that cannot be repeats, for their epoch is new: their source has broken its word."""

    def __len__(self) -> int:
        return sum(len(shard.read()) for shards in self._groups.values() for shard in shards.values())

    @property
    def bounds(self) -> Bounds:
        """What to store with the panes, as of now."""
        copies = [msgspec.structs.replace(bound) for bound in self._sources.values()]
        return Bounds(self._evicted, copies)

    @property
    def backlog(self) -> int:
        """Panes that the store has not been given yet."""
        return len(self.waiting) + len(self._unfounded) + len(self._replaced)

    def apply(self, batch: PaneBatch) -> None:
        """Take in one source partition's snapshots."""
        source = (batch.topic, batch.partition)
        bound = self._sources.get(source)
        if bound is None:
            bound = self._sources[source] = Bound(*source, last=-1)
        for pane in batch.panes:
            self._apply(batch, pane, bound)
        # After its panes: the watermark closes only what comes after this message.
        bound.closed = max(bound.closed, batch.watermark - self._horizon)
        if batch.epoch > bound.epoch or bound.last == UNKNOWN:
            bound.last = batch.last
        elif batch.epoch == bound.epoch:
            bound.last = max(bound.last, batch.last)
        bound.epoch = max(bound.epoch, batch.epoch)
        bound.idle = batch.idle

    def restore(self, shards: Iterable[tuple[str, bytes]]) -> None:
        """Take back what ``unsaved`` gave out; before the first ``apply``."""
        for text, packed in shards:
            name = ShardName.parse(text)
            if name.view in VIEWS:  # else a newer worker's, and left to it
                self._groups.setdefault((name.view, name.start), {})[name.number] = Shard(packed)

    def changed(self, limit: int) -> list[tuple[View, int, Key, Aggregate]]:
        """Up to ``limit`` of the panes that wait to be stored, merged."""
        return [
            (VIEWS[view], start, key, self._total(view, start, key))
            for view, start, key in self.waiting.take(limit)
        ]

    def unfounded(self) -> list[Name]:
        """Panes that began anew after they had been given up, and wait for ``found``."""
        return list(self._unfounded)

    def found(self, name: Name, base: Aggregate | None) -> None:
        """Tell what the store holds of a pane that began anew; ``None``: nothing. Save it before it is written."""
        if name not in self._unfounded:
            return  # rebuilt as a whole while the store was asked
        del self._unfounded[name]
        where = ShardName.of(*name)
        shard = self._awake[where] = self._groups[where.view, where.start][where.number]
        if base is not None:
            sketches = [sketch.snapshot() for sketch in base.sketches]
            part = Part(*BASE, 0, 0, list(base.counters), sketches)
            shard.wake()[name[2]].parts.append(part)
            shard.touch()
        self.waiting.add(name)
        self._unsaved[where] = None

    def rebuild(self, batch: RebuiltBatch) -> list[int]:
        """Replace panes by what was recomputed of them; returns the places of those refused, which stay as they are.

        Refused is a pane where a source has gone on to a later epoch, or into an unknown one: what the source counted
        since, and what was recomputed, would lie in one sum.
        """
        sources = {source.partition: source for source in batch.sources}
        return [
            place for place, pane in enumerate(batch.panes) if not self._rebuild(batch.topic, sources, pane)
        ]

    def rewrite(self, names: Iterable[Name]) -> list[Name]:
        """Let panes be stored again; returns those of known views that have been given up."""
        gone = []
        for name in names:
            view, start, key = name
            if view not in VIEWS or name in self._unfounded or name in self._replaced:
                continue
            shard = self._groups.get((view, start), {}).get(ShardName.of(*name).number)
            if shard is not None and key in shard.read():
                self.waiting.add(name)
            else:
                gone.append(name)
        return gone

    def release(self) -> bool:
        """Let the panes be stored that replaced what only the store held; whether there were any.

        Save them first: it must not be the store's new share that a later life takes for the old.
        """
        replaced, self._replaced = self._replaced, {}
        for name in replaced:
            self.waiting.add(name)
        return bool(replaced)

    def unsaved(self) -> Iterator[tuple[str, bytes]]:
        """The shards that changed since the last call, each under a stable name; may be taken one by one.

        Shards that were not touched since the last call are packed in memory.
        """
        names, self._unsaved = self._unsaved, {}
        for name in [name for name in self._awake if name not in names]:
            self._awake.pop(name).rest()
        for name in names:
            shard = self._groups.get((name.view, name.start), {}).get(name.number)
            if shard is not None:
                # Without the share that the store holds of them, these would look whole to whoever restores them.
                absent = {
                    key for view, start, key in self._unfounded if (view, start) == (name.view, name.start)
                }
                yield str(name), shard.pack(absent)

    def evict(self) -> list[str]:
        """Give up the panes that nobody needs to wait for; returns the names of their shards, to be deleted.

        Not to be called after a restart before all was read again that an earlier life may have shown to the store.
        """
        if len(self._sources) < self._expected:
            return []
        heard = [bound.closed for bound in self._sources.values() if not bound.idle]
        self._evicted = max(self._evicted, min(heard, default=0.0))
        floor = min((bound.closed for bound in self._sources.values()), default=0.0)
        busy = {ShardName.of(*name) for name in (*self.waiting, *self._unfounded, *self._replaced)}
        gone = []
        for (view, start), shards in list(self._groups.items()):
            end = start + VIEWS[view].width
            if end > self._evicted:
                continue
            for number, shard in list(shards.items()):
                name = ShardName(view, start, number)
                if name in busy or (end > floor and self._held(shard, end)):
                    continue
                del shards[number]
                self._unsaved.pop(name, None)
                self._awake.pop(name, None)
                gone.append(str(name))
            if not shards:
                del self._groups[view, start]
        return gone

    def _held(self, shard: Shard, end: float) -> bool:
        """Whether an idle source that has a part in the shard could still change it."""
        if shard.held_by is None or self._closed(shard.held_by) >= end:
            sources = {(part.topic, part.partition) for pane in shard.read().values() for part in pane.parts}
            shard.held_by = next((source for source in sources if self._closed(source) < end), None)
        return shard.held_by is not None

    def _closed(self, source: Source) -> float:
        if source == BASE:
            return math.inf
        bound = self._sources.get(source)
        return 0.0 if bound is None else bound.closed

    def _apply(self, batch: PaneBatch, pane: PaneSnapshot, bound: Bound) -> None:
        view = VIEWS.get(pane.view)
        if view is None:
            return  # a newer worker's view; it will be merged by workers that know it
        name = (pane.view, pane.start, pane.key)
        where = ShardName.of(*name)
        group = self._groups.get((pane.view, pane.start), {})
        shard = group.get(where.number)
        state = None if shard is None else shard.wake().get(pane.key)
        part = None if state is None else part_of(state, batch)
        if part is None and pane.start + view.width <= bound.closed:
            # Of this source, the store's share of the pane holds all there will ever be.
            self.repeats += 1
            self.late_panes += batch.epoch > bound.epoch
            return
        if shard is None:
            group = self._groups.setdefault((pane.view, pane.start), {})
            shard = group[where.number] = Shard()
        if state is None:
            state = shard.wake()[pane.key] = PaneState(pane.key, [])
            if pane.start + view.width <= self._evicted:
                self._unfounded[name] = None
        self._awake[where] = shard
        # Even a repeat is handed to the store again: it may be the repeat after a crash before the write.
        if name not in self._unfounded and name not in self._replaced:
            self.waiting.add(name)
        if part is None:
            state.parts.append(
                Part(batch.topic, batch.partition, batch.epoch, batch.last, pane.counters, pane.sketches)
            )
        elif (batch.epoch, batch.last) > (part.epoch, part.last):
            if batch.epoch > part.epoch:
                seal(part)
            part.epoch, part.last = batch.epoch, batch.last
            part.counters, part.sketches = pane.counters, pane.sketches
        else:
            return
        shard.touch()
        self._unsaved[where] = None

    def _rebuild(self, topic: str, sources: Mapping[int, RebuiltSource], pane: RebuiltPane) -> bool:
        view = VIEWS.get(pane.view)
        if view is None:
            return False  # a newer version's
        name = (pane.view, pane.start, pane.key)
        where = ShardName.of(*name)
        shard = self._groups.get((pane.view, pane.start), {}).get(where.number)
        state = None if shard is None else shard.wake().get(pane.key)
        parts = {} if state is None else {(part.topic, part.partition): part for part in state.parts}
        end = pane.start + view.width
        # Whether all that was ever shown of it is here in parts, and not only as a sum in the store.
        whole = end > self._evicted if state is None else name not in self._unfounded and BASE not in parts
        for number, source in sources.items():
            part = parts.get((topic, number))
            if part is not None and part.epoch > source.epoch:
                return False
            if part is None and not whole and source.closed < end and self._heard_after(topic, source):
                return False
        if any(number not in sources for _, number in parts.keys() - {BASE}):
            return False
        made = replace(topic, sources, pane, parts, view)
        if shard is None:
            group = self._groups.setdefault((pane.view, pane.start), {})
            shard = group[where.number] = Shard()
        if state is None:
            state = shard.wake()[pane.key] = PaneState(pane.key, [])
        state.parts = made
        shard.touch()
        self._awake[where] = shard
        self._unsaved[where] = None
        self._unfounded.pop(name, None)
        if whole and name not in self._replaced:
            self.waiting.add(name)
        else:
            self._replaced[name] = None
        return True

    def _heard_after(self, topic: str, source: RebuiltSource) -> bool:
        """Whether a source has said anything beyond what was recomputed of it."""
        bound = self._sources.get((topic, source.partition))
        return bound is not None and (bound.epoch, bound.last) > (source.epoch, source.last)

    def _total(self, view: str, start: int, key: Key) -> Aggregate:
        total = VIEWS[view].empty()
        number = ShardName.of(view, start, key).number
        for part in self._groups[view, start][number].wake()[key].parts:
            total.merge(Aggregate.restore(part.counters, part.sketches))
            if part.sealed_counters:
                total.merge(Aggregate.restore(part.sealed_counters, part.sealed_sketches))
        return total

"""A stretch of event time counted again from the source topics: late events too, and at the prices of today.

A worker's log is read in two ways, parted at the beginning of the epoch that it is in (``Checkpoint.epoch``):

    offsets   ── begin ───── Recount ──────────┬── Current ──┬─ last ── later
    events    all, but repeats; late ones wait │ as the worker counts them; late ones apart
    prices    ours                             │ ours

What ``Recount`` finds replaces the sealed epochs in the second stage. The current epoch's share is what its worker
has published or will publish of it, since it is computed as the worker does, from the same checkpoint; so whatever
the worker publishes later goes on from there.

Caps: whom the caps admit is decided by the events in time, in the order of the log, as in the workers. Late events
would take places from those that the workers let in, so they wait (``Memory.keep``) until all others have had theirs.
For the same reason a stretch is read from the beginning of its first day: there the caps begin.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from copy import deepcopy
from dataclasses import dataclass
from itertools import chain, groupby
from typing import Any, Final, NamedTuple, Protocol

from tidegauge.errors import SettingsError
from tidegauge.schemas.codec import Codec, encode
from tidegauge.schemas.pane import PaneSnapshot
from tidegauge.schemas.rebuilt import RebuiltPane, RebuiltShare

from .aggregate import Aggregate
from .cardinality import DAY, Admitted
from .ingest import Checkpoint, Ingest, IngestConfig
from .kinds import REQUESTS, Kind
from .pricing import PriceTable
from .views import VIEWS

BEFORE, LATE, CURRENT = range(3)
"""Where a row's share comes from: events in time or late of sealed epochs, or the worker's epoch."""

_AT_ONCE: Final = 65_536
"""Late events that are folded before their panes are let go of."""


@dataclass(frozen=True)
class Stretch:
    """Event times from ``start`` on and before ``end`` (Unix seconds); what overlaps it is recounted whole."""

    start: float
    end: float

    @property
    def first(self) -> int:
        """Where the first day begins of which anything is recounted."""
        return int(self.start // DAY) * DAY

    def holds(self, time: float) -> bool:
        """Whether an event may be in one of the panes."""
        return self.first <= time < -(-self.end // DAY) * DAY

    def covers(self, view: str, start: int) -> bool:
        """Whether a pane is one of them."""
        return start < self.end and start + VIEWS[view].width > self.start


class Memory(Protocol):
    """What is too much to be held in memory: one source partition's event ids, and its late events."""

    def new(self, identity: str) -> bool:
        """Remember an event's id; whether it was not known before."""
        ...

    def knows(self, identity: str) -> bool:
        """Whether an id was remembered."""
        ...

    def keep(self, event: bytes) -> None:
        """Keep a late event."""
        ...

    def kept(self) -> Iterator[bytes]:
        """The late events, in the order in which they were kept."""
        ...


class Recount(Ingest):
    """All that one source partition's log holds of a stretch; may go on from where it is, again and again.

    Args:
        topic: as for ``Ingest``, like all that is not named here.
        partition: of the topic.
        config: the rules.
        prices: unit prices.
        stretch: what to recount.
        begin: offset to begin at; all events before it are older than the stretch.
        memory: this partition's own.
        kind: what the topic carries.
    """

    def __init__(
        self,
        topic: str,
        partition: int,
        config: IngestConfig,
        prices: PriceTable,
        stretch: Stretch,
        begin: int,
        memory: Memory,
        kind: Kind = REQUESTS,
    ) -> None:
        super().__init__(topic, partition, config, prices, Checkpoint(begin, begin), kind=kind)
        self._kind = kind
        self._prices = prices
        self._stretch = stretch
        self._memory = memory
        self._late_codec = Codec(kind.wire)
        self.counted = 0
        """Events of the stretch, the late ones not among them."""
        self.late_count = 0
        """Late events of the stretch."""

    def take(self, *, end: bool = False) -> list[PaneSnapshot]:
        """Take out what was counted and is not going to change; of one name it adds up.

        Args:
            end: take all; what is read later begins anew.
        """
        if end:
            self._seal(self.position)
        batches, self._sealed = self._sealed, []
        self._letters = []  # the workers have written them
        return [pane for batch in batches for pane in batch.panes]

    def late_panes(self, more: Iterable[Any]) -> Iterator[PaneSnapshot]:
        """What late events add, under the keys that the caps still leave; of one name it adds up.

        Args:
            more: further late events, which are not in the memory.
        """
        decode = self._late_codec.decode_one
        fold = self._kind.fold(self.topic, self._prices, deepcopy(self._admission))
        waiting = 0
        for event in chain(map(decode, self._memory.kept()), more):
            fold.add([event])
            waiting += 1
            if waiting == _AT_ONCE:
                yield from fold.seal()
                waiting = 0
        yield from fold.seal()

    def knows(self, identity: str) -> bool:
        """Whether an event was read."""
        return self._memory.knows(identity)

    def _fold_events(self, events: Sequence[Any], stamps: Sequence[int]) -> int:
        good = []
        for event, stamp in zip(events, stamps, strict=True):
            if not self._memory.new(event.id):
                outcome = "duplicate"
            elif event.time < self._watermark - self._config.allowed_lateness:
                outcome = "late"  # that it was, when it came; the intake view tells of that
                if self._stretch.holds(event.time):
                    self._memory.keep(encode(event))
                    self.late_count += 1
            else:
                outcome = "applied"
                self._watermark = max(self._watermark, event.time)
                if self._stretch.holds(event.time):
                    good.append(event)
            self._fold.count(stamp, outcome)
        if good:
            self._fold.add(good)
        self.counted += len(good)
        return len(good)

    def _seal_admission(self, horizon: float) -> None:
        """Keep all days: late events have yet to be admitted."""


class Current(Ingest):
    """The share of the epoch that a worker is in, as the worker counts it up to its checkpoint.

    Args:
        topic: as for ``Ingest``, like all that is not named here.
        partition: of the topic.
        config: the rules; those of the workers.
        prices: unit prices.
        stretch: what is recounted.
        checkpoint: the worker's.
        admitted: the worker's.
        earliest: the first offset that the topic still holds.
        kind: what the topic carries.
    """

    def __init__(
        self,
        topic: str,
        partition: int,
        config: IngestConfig,
        prices: PriceTable,
        stretch: Stretch,
        checkpoint: Checkpoint,
        admitted: Iterable[Admitted],
        earliest: int = 0,
        kind: Kind = REQUESTS,
    ) -> None:
        held = Checkpoint(
            max(checkpoint.previous, earliest), checkpoint.epoch, checkpoint.watermark, checkpoint.last
        )
        super().__init__(topic, partition, config, prices, held, admitted, kind)
        self._stretch = stretch
        self._from = checkpoint.epoch
        self.late: list[Any] = []
        """Events of the stretch that came too late for the worker."""
        self._good: Sequence[Any] = ()
        self.counted = 0
        """Events of the stretch, the late ones not among them."""

    def take(self) -> list[PaneSnapshot]:
        """All that the epoch holds.

        Raises:
            SettingsError: the worker ends its epochs elsewhere.
        """
        if self._epoch != self._from:
            raise SettingsError(
                "worker.epoch_events, worker.epoch_seconds: must be those that the workers run with"
            )
        return self._fold.seal()

    def closed(self) -> float:
        """Panes that end by then it will not change, whatever comes; Unix seconds."""
        return self._watermark - max(self._config.allowed_lateness, self._config.future_tolerance)

    def _fold_events(self, events: Sequence[Any], stamps: Sequence[int]) -> int:
        self._good = events
        folded = super()._fold_events(events, stamps)
        self.counted += sum([self._stretch.holds(event.time) for event in self._good])
        self._good = ()
        return folded

    def _sift(self, events: Sequence[Any], stamps: Sequence[int]) -> list[Any]:
        new = [event for event in events if event.id not in self._ids and event.id not in self._old_ids]
        self._good = good = super()._sift(events, stamps)
        decided = {event.id for event in good}
        for event in new:
            if event.id not in decided:  # else a repeat among these
                decided.add(event.id)
                if self._stretch.holds(event.time):
                    self.late.append(event)
        return good


class Row(NamedTuple):
    """A snapshot, of which partition, and what it is (``BEFORE``, ``LATE``, ``CURRENT``)."""

    partition: int
    share: int
    pane: PaneSnapshot


def assemble(rows: Iterable[Row]) -> Iterator[RebuiltPane]:
    """The panes that rows are of; rows of one pane must come together."""
    for (view, start, key), group in groupby(rows, lambda row: (row.pane.view, row.pane.start, row.pane.key)):
        shares: dict[int, list[Aggregate | None]] = {}
        for row in group:
            halves = shares.setdefault(row.partition, [None, None])
            half = row.share == CURRENT
            counted = Aggregate.restore(row.pane.counters, row.pane.sketches)
            known = halves[half]
            if known is None:
                halves[half] = counted
            else:
                known.merge(counted)
        yield RebuiltPane(
            view,
            key,
            start,
            [
                RebuiltShare(partition, *_wire(before), *_wire(current))
                for partition, (before, current) in sorted(shares.items(), key=lambda item: item[0])
            ],
        )


def total(pane: RebuiltPane) -> Aggregate:
    """All shares of a pane together."""
    result = VIEWS[pane.view].empty()
    for share in pane.shares:
        for counters, sketches in (
            (share.counters, share.sketches),
            (share.current_counters, share.current_sketches),
        ):
            if counters:
                result.merge(Aggregate.restore(counters, sketches))
    return result


def _wire(half: Aggregate | None) -> tuple[list[int], list[Any]]:
    if half is None:
        return [], []
    return half.counters, [sketch.snapshot() for sketch in half.sketches]

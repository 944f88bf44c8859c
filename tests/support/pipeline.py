"""Both stages without servers, as the engine runs them, with whatever may happen on the way drawn by hypothesis.

log ──cut into chunks──▶ Ingest ──flush──▶ panes log ──cut into chunks──▶ Merge ──▶ what the store holds
                           ▲ crash: a new one reads again     ▲ sent twice    ▲ crash: a new one reads again
                           ╰ says that it is idle, true or not                ╰ panes given up, and taken back
                           ╰ its log is recounted ──▶ a rebuilt batch among the panes, somewhere
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import msgspec
from hypothesis import strategies as st

from tidegauge.processors.core.aggregate import Aggregate
from tidegauge.processors.core.cardinality import Admitted
from tidegauge.processors.core.ingest import Checkpoint, Ingest, IngestConfig
from tidegauge.processors.core.kinds import Kind
from tidegauge.processors.core.merge import Bounds, Merge
from tidegauge.processors.core.pricing import PriceTable
from tidegauge.processors.core.views import VIEWS
from tidegauge.schemas.codec import encode
from tidegauge.schemas.pane import PaneBatch, SketchSnapshot
from tidegauge.schemas.rebuilt import RebuiltBatch

Stored = dict[tuple[str, int, tuple[str, ...]], tuple[list[int], list[SketchSnapshot]]]
"""Counters and sketches by view, start and key."""


@dataclass
class Record:
    offset: int
    timestamp: int
    value: bytes | None


@dataclass
class Source:
    """A partition of a topic of events, and its log."""

    kind: Kind
    partition: int
    log: list[Record]


@dataclass
class Crashes:
    """Decisions drawn one after the other; hypothesis shrinks them to a run without incident."""

    draw: Callable[..., Any]

    def happens(self, one_in: int) -> bool:
        return bool(self.draw(st.integers(0, one_in - 1)) == one_in - 1)

    def upto(self, most: int) -> int:
        return most - int(self.draw(st.integers(0, most - 1))) if most > 0 else 0


class Quiet(Crashes):
    """The straight run: one chunk, no incident."""

    def __init__(self) -> None:
        pass

    def happens(self, one_in: int) -> bool:
        return False

    def upto(self, most: int) -> int:
        return most


class Restless(Crashes):
    """As ``Crashes``, but everything is done in small steps, so that much happens between them."""

    def upto(self, most: int) -> int:
        return min(most, int(self.draw(st.integers(1, 3)))) if most > 0 else 0


@dataclass
class Broker:
    """What outlives a crash: the panes log, the state table of both stages, and the store."""

    panes: list[bytes] = field(default_factory=list)
    checkpoints: dict[Any, bytes] = field(default_factory=dict)
    admitted: dict[Any, bytes] = field(default_factory=dict)
    shards: dict[str, bytes] = field(default_factory=dict)
    position: int = 0
    frontier: int = 0
    bounds: bytes = b"{}"
    store: Stored = field(default_factory=dict)
    revived: int = 0
    evicted: int = 0
    history: dict[Any, list[tuple[int, Checkpoint, list[Admitted]]]] = field(default_factory=dict)
    """Of each source, the checkpoints in their order, each after how many messages, and what was admitted then."""
    answers: list[tuple[int, list[int]]] = field(default_factory=list)
    """Of rebuilt batches in the order in which they were read, crash or not: their number, and what was refused."""


class CrashError(Exception):
    """The second stage ends here."""


def ingest_all(
    source: Source, config: IngestConfig, prices: PriceTable, broker: Broker, fate: Crashes
) -> None:
    """Run the first stage over a log to its end, as the engine does."""
    crashes_left = 4
    seconds = 0.0
    log, me = source.log, (source.kind.name, source.partition)

    def restored() -> Ingest:
        raw = broker.checkpoints.get(me)
        checkpoint = msgspec.json.decode(raw, type=Checkpoint) if raw else None
        admitted = [
            msgspec.json.decode(value, type=Admitted)
            for (of, *_), value in broker.admitted.items()
            if of == me
        ]
        return Ingest(source.kind.name, source.partition, config, prices, checkpoint, admitted, source.kind)

    ingest = restored()
    while True:
        at = ingest.position
        cut = at + fate.upto(len(log) - at)
        ingest.apply(log[:cut])  # what lies before its position is skipped
        done = cut >= len(log)
        if crashes_left and fate.happens(6):
            crashes_left -= 1
            ingest = restored()  # nothing of this was delivered
            continue
        if (done or ingest.sealed or fate.happens(2)) and ingest.pending and not ingest.catching_up:
            seconds += 4.0
            out = ingest.flush(seconds, whole=done or fate.happens(5))
            dies = bool(crashes_left) and fate.happens(4)
            # A crash in the middle of a delivery: the panes got there in part, the rest of it perhaps not at all.
            delivered = len(out.batches) - (fate.upto(len(out.batches)) if dies else 0)
            broker.panes += [encode(batch) for batch in out.batches[:delivered]]
            if not dies or (delivered == len(out.batches) and fate.happens(2)):
                for a in out.admitted:
                    broker.admitted[me, a.epoch, a.day] = encode(a)
            if dies:
                crashes_left -= 1
                ingest = restored()
                continue
            broker.checkpoints[me] = encode(out.checkpoint)
            known = [
                msgspec.json.decode(value, type=Admitted)
                for (of, *_), value in broker.admitted.items()
                if of == me
            ]
            broker.history.setdefault(me, []).append((len(broker.panes), out.checkpoint, known))
            if not fate.happens(4):
                for epoch, day in out.forgotten:
                    broker.admitted.pop((me, epoch, day), None)
        if not ingest.pending and not ingest.catching_up and fate.happens(3):
            broker.panes.append(encode(ingest.idle()))  # no figure may depend on it, so it need not be true
        if done:
            return


def merge_all(sources: int, config: IngestConfig, broker: Broker, fate: Crashes) -> None:
    """Run the second stage over the panes log to its end, as the engine does."""
    crashes_left = 4
    while True:
        try:
            _merge(sources, config, broker, fate, may_crash=crashes_left > 0)
        except CrashError:
            crashes_left -= 1
        else:
            return


def _merge(sources: int, config: IngestConfig, broker: Broker, fate: Crashes, *, may_crash: bool) -> None:
    horizon = max(config.allowed_lateness, config.future_tolerance)
    merge = Merge(horizon, sources, msgspec.json.decode(broker.bounds, type=Bounds))
    merge.restore(broker.shards.items())
    at, frontier = broker.position, broker.frontier

    def crash() -> None:
        if may_crash and fate.happens(8):
            raise CrashError

    def read(most: int) -> None:
        nonlocal at
        for raw in broker.panes[at : at + most]:
            message = msgspec.json.decode(raw, type=PaneBatch | RebuiltBatch)
            if isinstance(message, PaneBatch):
                merge.apply(message)
            else:
                broker.answers.append((message.number, merge.rebuild(message)))
        at = min(at + most, len(broker.panes))
        broker.frontier = max(broker.frontier, at)

    def meanwhile() -> None:
        if fate.happens(3):
            read(1)

    def found() -> bool:
        names = merge.unfounded()
        for name in names:
            held = broker.store.get(name)
            merge.found(name, Aggregate.restore(*held) if held else None)
        broker.revived += len(names)
        return merge.release() or bool(names)

    def save() -> None:
        for name, packed in merge.unsaved():
            broker.shards[name] = packed
            meanwhile()
            crash()

    while True:
        read(fate.upto(len(broker.panes) - at))
        crash()
        position = at
        if found():
            save()
        stamp = merge.waiting.stamp
        while not merge.waiting.taken_up_to(stamp):
            for view, start, key, total in merge.changed(1 + fate.upto(20)):
                broker.store[view.name, start, key] = (total.counters, [s.snapshot() for s in total.sketches])
            meanwhile()
            crash()
        if at >= len(broker.panes) or fate.happens(2):
            found()
            gone = merge.evict() if at >= frontier else []
            bounds = encode(merge.bounds)
            broker.evicted += len(gone)
            meanwhile()
            save()
            broker.position, broker.bounds = position, bounds
            crash()
            for name in gone:
                broker.shards.pop(name, None)
        if at >= len(broker.panes) and not merge.backlog:
            return


Rebuild = Callable[[dict[Any, tuple[Checkpoint, list[Admitted]]], int], list[RebuiltBatch]]
"""Makes rebuilt batches of checkpoints by source, under a number."""


def run(
    sources: list[Source],
    config: IngestConfig,
    prices: PriceTable,
    fate: Crashes,
    rebuild: Rebuild | None = None,
    *,
    finally_too: bool = False,
) -> Broker:
    """Both stages; the sources' deliveries are interleaved in any way, each in its own order.

    With ``rebuild``, rebuilt batches come at any time, of any checkpoint of before; with ``finally_too``, number 0
    comes after all else.
    """
    broker = Broker()
    queues = []
    for source in sources:
        ingest_all(source, config, prices, broker, fate)
        queues.append(broker.panes)
        broker.panes = []
    whole = [len(queue) for queue in queues]
    number = 0

    def checkpoints(*, newest: bool) -> dict[Any, tuple[Checkpoint, list[Admitted]]]:
        chosen = {}
        for source, queue, sent in zip(sources, queues, whole, strict=True):
            me = (source.kind.name, source.partition)
            known = [entry[1:] for entry in broker.history.get(me, []) if entry[0] <= sent - len(queue)]
            at = len(known) if newest else fate.upto(len(known))  # 0: it was read before there was one
            chosen[me] = known[at - 1] if at else (Checkpoint(), [])
        return chosen

    while any(queues):
        queue = next(q for q in queues if q) if not fate.happens(2) else [q for q in queues if q][-1]
        broker.panes.append(queue.pop(0))
        if rebuild is not None and fate.happens(4):
            number += 1
            broker.panes += map(encode, rebuild(checkpoints(newest=False), number))
    if rebuild is not None and finally_too:
        broker.panes += map(encode, rebuild(checkpoints(newest=True), 0))
    if broker.panes and fate.happens(2):
        # A producer that sends again what it believes lost, in order; and a frozen one that wakes up late.
        again = fate.upto(len(broker.panes))
        broker.panes += [raw for raw in broker.panes[:again] if b'"rebuilt"' not in raw[:20]]
    merge_all(len(sources), config, broker, fate)
    return broker


def totals(store: Stored, view: str) -> Counter[str]:
    """The counters of all panes of a view, added up."""
    result: Counter[str] = Counter()
    for (name, _, _), (counters, _) in store.items():
        if name == view:
            result.update(dict(zip(VIEWS[view].counters, counters, strict=True)))
    return +result

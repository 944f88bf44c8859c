"""Recounts a stretch of event time from Kafka, and has the workers replace what they hold and stored of it.

One topic of events after the other, for no pane is fed by two:

1. read each partition up to the epoch that its worker is in (``Recount``), which may take long;
2. read the worker's checkpoint again, go on to its epoch, and read that epoch as the worker does (``Current``);
3. send what differs from the store to the second stage, newest panes first, and wait for its answers;
4. a worker that has gone on to its next epoch since 2 refuses the panes concerned: do 2 and 3 again for those.

Nothing is kept between two runs: whoever is killed runs it again. See docs/adr/0005.
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from datetime import UTC, datetime
from itertools import groupby
from typing import Any, Final

from kafka import KafkaConsumer, TopicPartition

from .broker import consumer, producer
from .errors import UnavailableError
from .processors.core.ingest import IngestConfig
from .processors.core.kinds import KINDS, Kind
from .processors.core.merge import route
from .processors.core.pricing import PriceTable
from .processors.core.recount import BEFORE, CURRENT, LATE, Current, Recount, Stretch, assemble, total
from .processors.core.views import VIEWS
from .rebuild_kafka import Checkpoints, Panes, read_log
from .schemas.codec import encode
from .schemas.rebuilt import RebuiltBatch, RebuiltPane, RebuiltSource
from .settings import Settings
from .sinks.base import FieldValue, Store
from .sinks.panes import points
from .spool import Spool

ROUNDS: Final = 8
CATCH_UP: Final = 20.0
"""Seconds that workers may stand still before what they have not read is left to them."""
_MOST_PANES: Final = 500
_MOST_BYTES: Final = 1_000_000
_MAX_REQUEST: Final = 5 * 1024 * 1024

Name = tuple[str, int, tuple[str, ...]]
"""A pane: its view, start and key."""


@dataclass(frozen=True)
class Change:
    """A pane that differs from the store, with the counters that do, as (before, after)."""

    view: str
    start: int
    key: tuple[str, ...]
    counters: Mapping[str, tuple[FieldValue | None, FieldValue]]


@dataclass
class Report:
    """What a rebuild did, or would do."""

    events: int = 0
    late: int = 0
    panes: int = 0
    changed: int = 0
    unread: int = 0
    """Records that the workers have yet to read."""
    left: list[Name] = field(default_factory=list)
    """Panes that are not rewritten, for their workers were quicker."""


class _Source:
    """One partition of a topic of events."""

    def __init__(self, place: TopicPartition, recount: Recount, earliest: int) -> None:
        self.place = place
        self.recount = recount
        self.earliest = earliest
        self.current: Current | None = None
        self.late: list[Any] = []


class Rebuild:
    """One run of the command.

    Args:
        settings: servers, topics, and the rules that the workers run with.
        prices: unit prices.
        stretch: what to recount.
        store: where the workers write; it is only read here.
        changed: hears of each pane that differs from the store.
        progress: hears of the number of records read so far.
        dry_run: send nothing.
        force: go on where retention may have deleted a part of what is needed.
        patience: seconds to wait for a worker's answer.
    """

    def __init__(
        self,
        settings: Settings,
        prices: PriceTable,
        stretch: Stretch,
        store: Store,
        *,
        changed: Callable[[Change], None] = lambda change: None,
        progress: Callable[[int], None] = lambda records: None,
        dry_run: bool = False,
        force: bool = False,
        patience: float = 120.0,
    ) -> None:
        self._settings = settings
        self._config = IngestConfig.of(settings.worker)
        self._prices = prices
        self._stretch = stretch
        self._store = store
        self._changed = changed
        self._progress = progress
        self._dry_run = dry_run
        self._force = force
        self._patience = patience
        self._report = Report()
        self._records = 0
        self._numbers = 0
        self._id = uuid.uuid4().hex
        self._refused: set[Name] = set()

    def run(self) -> Report:
        """Do it.

        Raises:
            UnavailableError: a topic is missing, retention has deleted what is needed, or no worker answers.
            BrokerUnavailableError: Kafka does not answer.
            SinkUnavailableError: the store does not answer.
        """
        kafka, topics = self._settings.kafka, self._settings.topics
        with ExitStack() as stack:

            def client() -> KafkaConsumer:
                return stack.enter_context(consumer(kafka, allow_auto_create_topics=False))

            logs = client()
            self._check_topics(logs)
            spool = Spool()
            stack.callback(spool.close)
            checkpoints = Checkpoints(client(), topics.state, topics.partitions)
            sources = {kind: self._open(kind, logs, spool) for kind in KINDS.values()}
            self._let_catch_up(logs, checkpoints, sources)
            panes = None
            if not self._dry_run:
                sender = stack.enter_context(producer(kafka, max_request_size=_MAX_REQUEST))
                panes = Panes(client(), sender, topics.panes, topics.partitions, self._id, self._patience)
            for kind, partitions in sources.items():
                self._rebuild(kind, partitions, logs, checkpoints, spool, panes)
        return self._report

    def _check_topics(self, logs: KafkaConsumer) -> None:
        topics = self._settings.topics
        there = logs.topics()
        for topic in (topics.requests, topics.feedback, topics.judgements, topics.panes, topics.state):
            # Asking for this one topic would hang where it does not exist.
            if topic not in there:
                raise UnavailableError(f"no topic {topic}; make it with: tidegauge topics create")
            if len(logs.partitions_for_topic(topic)) != topics.partitions:
                raise UnavailableError(
                    f"topic {topic} has {len(logs.partitions_for_topic(topic))} partitions,"
                    f" the settings ask for {topics.partitions} (topics.partitions)"
                )

    def _open(self, kind: Kind, logs: KafkaConsumer, spool: Spool) -> list[_Source]:
        topic = getattr(self._settings.topics, kind.name)
        places = [TopicPartition(topic, number) for number in range(self._settings.topics.partitions)]
        # An event is at most so much ahead of the moment when Kafka took it in.
        needed = max(0.0, self._stretch.first - self._config.future_tolerance)
        # Not needed for any figure but for those of what was late and what came twice: what went before.
        wanted = max(0.0, needed - self._config.allowed_lateness)
        earliest, ends = logs.beginning_offsets(places), logs.end_offsets(places)
        first = logs.offsets_for_times({place: int(needed * 1000) for place in places})
        begin = logs.offsets_for_times({place: int(wanted * 1000) for place in places})
        opened = []
        for place in places:
            self._check_retention(place, needed, earliest[place], ends[place], first.get(place))
            found = begin.get(place)
            recount = Recount(
                topic,
                place.partition,
                self._config,
                self._prices,
                self._stretch,
                ends[place] if found is None else found.offset,
                spool.memory(),
                kind,
            )
            opened.append(_Source(place, recount, earliest[place]))
        return opened

    def _check_retention(
        self, place: TopicPartition, needed: float, earliest: int, end: int, first: Any
    ) -> None:
        if self._force or earliest == 0:
            return
        if earliest < end:
            # Where a record from before the stretch is left, none of the stretch's is gone.
            gone = first is not None and first.offset == earliest
        else:
            gone = needed < time.time() - self._settings.topics.retention_hours * 3_600
        if gone:
            since = "is empty" if first is None else f"begins at {_utc(first.timestamp / 1000)}"
            raise UnavailableError(
                f"{place.topic}/{place.partition} {since}, and what was there before has been deleted; needed is all"
                f" from {_utc(needed)} on. Rebuild a later stretch, or, if nothing of this one can be missing, say"
                " --force"
            )

    def _let_catch_up(
        self, logs: KafkaConsumer, checkpoints: Checkpoints, sources: Mapping[Kind, list[_Source]]
    ) -> None:
        """Wait until the workers have read what is there now, as long as they get on."""
        ends = logs.end_offsets([source.place for partitions in sources.values() for source in partitions])
        before, since = -1, time.monotonic()
        while True:
            checkpoints.refresh()
            unread = 0
            for kind, partitions in sources.items():
                for source in partitions:
                    read = checkpoints.of(kind, source.place.partition).checkpoint.last + 1
                    unread += max(0, ends[source.place] - max(read, source.earliest))
            if unread == 0:
                break
            if unread != before:
                before, since = unread, time.monotonic()
            elif time.monotonic() - since > CATCH_UP:
                break
            time.sleep(0.2)
        self._report.unread = unread

    def _rebuild(
        self,
        kind: Kind,
        sources: list[_Source],
        logs: KafkaConsumer,
        checkpoints: Checkpoints,
        spool: Spool,
        panes: Panes | None,
    ) -> None:
        wanted: set[Name] | None = None
        for _ in range(ROUNDS):
            for source in sources:  # the long way first, so that the checkpoints are young when it is done
                stored = checkpoints.of(kind, source.place.partition)
                source.recount.poison = stored.poison
                self._recount(source, stored.checkpoint.epoch, logs, spool)
            checkpoints.refresh()
            spool.forget_moving(sources[0].place.topic)
            read = [self._go_on(kind, source, logs, checkpoints, spool) for source in sources]
            self._refused = set()
            self._send(sources[0].place.topic, read, spool, panes, wanted)
            wanted = self._refused
            if not wanted:
                break
        self._report.left += sorted(wanted or ())
        for source in sources:
            late = source.recount.late_count + len(source.late)
            counted = 0 if source.current is None else source.current.counted
            self._report.events += source.recount.counted + counted + late
            self._report.late += late

    def _recount(self, source: _Source, end: int, logs: KafkaConsumer, spool: Spool) -> None:
        recount = source.recount
        for records in read_log(logs, source.place, recount.position, end):
            recount.apply(records)
            spool.add(*self._share(source, BEFORE), recount.take(), self._stretch)
            self._read(len(records))

    def _go_on(
        self, kind: Kind, source: _Source, logs: KafkaConsumer, checkpoints: Checkpoints, spool: Spool
    ) -> RebuiltSource:
        """Recount up to the worker's epoch as it is now, and that epoch itself."""
        checkpoint, admitted, _, poison = checkpoints.of(kind, source.place.partition)
        recount = source.recount
        recount.poison = poison
        self._recount(source, checkpoint.epoch, logs, spool)
        spool.add(*self._share(source, BEFORE), recount.take(end=True), self._stretch)
        source.current = current = Current(
            recount.topic,
            recount.partition,
            self._config,
            self._prices,
            self._stretch,
            checkpoint,
            admitted,
            source.earliest,
            kind,
        )
        current.poison = poison
        for records in read_log(logs, source.place, current.position, checkpoint.last + 1):
            current.apply(records)
        source.late = [event for event in current.late if not recount.knows(event.id)]
        spool.add(*self._share(source, CURRENT), current.take(), self._stretch)
        spool.add(*self._share(source, LATE), recount.late_panes(source.late), self._stretch)
        return RebuiltSource(recount.partition, checkpoint.epoch, checkpoint.last, current.closed())

    def _share(self, source: _Source, share: int) -> tuple[str, int, int]:
        return source.place.topic, source.place.partition, share

    def _send(
        self,
        topic: str,
        read: list[RebuiltSource],
        spool: Spool,
        panes: Panes | None,
        wanted: set[Name] | None,
    ) -> None:
        partitions = self._settings.topics.partitions
        open_batches: dict[int, list[RebuiltPane]] = {}
        sizes: dict[int, int] = {}

        def dispatch(partition: int) -> None:
            batch = open_batches.pop(partition, [])
            sizes.pop(partition, None)
            if batch and panes is not None:
                self._numbers += 1
                panes.send(partition, RebuiltBatch(self._id, self._numbers, topic, read, batch), self._refuse)

        for pane, change in self._compared(assemble(spool.rows(topic)), wanted):
            if wanted is None:
                self._report.panes += 1
            if change is None:
                continue
            if wanted is None:
                self._report.changed += 1
                self._changed(change)
            partition = route(pane.view, pane.key, partitions)
            open_batches.setdefault(partition, []).append(pane)
            sizes[partition] = sizes.get(partition, 0) + len(encode(pane))
            if len(open_batches[partition]) >= _MOST_PANES or sizes[partition] >= _MOST_BYTES:
                dispatch(partition)
        for partition in list(open_batches):
            dispatch(partition)
        if panes is not None:
            panes.wait(self._refuse)

    def _refuse(self, batch: RebuiltBatch, place: int) -> None:
        pane = batch.panes[place]
        self._refused.add((pane.view, pane.start, pane.key))

    def _compared(
        self, panes: Iterable[RebuiltPane], wanted: set[Name] | None
    ) -> Iterator[tuple[RebuiltPane, Change | None]]:
        """Each pane, with what it changes in the store."""
        for (view, start), group in groupby(panes, lambda pane: (pane.view, pane.start)):
            stored: dict[tuple[str, tuple[str, ...]], Mapping[str, FieldValue]] | None = None
            for pane in group:
                if wanted is not None and (view, start, pane.key) not in wanted:
                    continue
                if stored is None:
                    stored = self._stored(view, start)
                yield pane, _compare(pane, stored)

    def _stored(self, view: str, start: int) -> dict[tuple[str, tuple[str, ...]], Mapping[str, FieldValue]]:
        dimensions = VIEWS[view].dimensions
        return {
            (m.name, tuple(point.tags.get(name, "") for name in dimensions)): point.fields
            for m in VIEWS[view].measurements
            for point in self._store.read(m.name, start, start + 1)
        }

    def _read(self, records: int) -> None:
        self._records += records
        self._progress(self._records)


def _compare(
    pane: RebuiltPane, stored: Mapping[tuple[str, tuple[str, ...]], Mapping[str, FieldValue]]
) -> Change | None:
    view = VIEWS[pane.view]
    differs = False
    counters: dict[str, tuple[FieldValue | None, FieldValue]] = {}
    for point in points(view, pane.start, pane.key, total(pane)):
        known = stored.get((point.measurement, pane.key), {})
        for name, value in point.fields.items():
            if known.get(name) != value:
                differs = True
                if name in view.positions:
                    counters[name] = (known.get(name), value)
    return Change(pane.view, pane.start, pane.key, counters) if differs else None


def _utc(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="seconds").replace("+00:00", "Z")

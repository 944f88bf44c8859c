"""The first stage for one source partition of any kind of event: a pure function of its log.

Records go in, pane snapshots come out. What is in a snapshot depends on nothing but the log up to its ``last``
offset: not on the clock, not on how the records were cut into chunks, not on crashes. That is what makes sending
twice harmless, and it needs no stored state beyond a small ``Checkpoint``.

The log is cut into *epochs*, at places that the log alone decides: after ``epoch_events`` events, or when Kafka's
append time has moved on by ``epoch_seconds``. Snapshots of different epochs add up in the second stage, so a pane
is forgotten here when its epoch is sealed. After a restart the current epoch is read again from its beginning, and
the one before it for its event ids alone: duplicates are recognised over one to two epochs.

    offsets   ── previous epoch ──┬───── current epoch ─────┬─ next record
    ids        remembered         │ remembered              │
    panes      sealed             │ absolute since here     │
    restart    read for ids       │ read again and folded   │ go on
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any, Final

import msgspec

from tidegauge.errors import InvalidEventError
from tidegauge.schemas.codec import MAX_MESSAGE_BYTES, Codec, Refused
from tidegauge.schemas.common import SCHEMA_VERSION
from tidegauge.schemas.pane import PaneBatch, PaneSnapshot

from .cardinality import DAY, Admission, Admitted
from .intake import Checkpoint, IngestConfig, Letter, Outbox, Record, part
from .kinds import REQUESTS, Kind
from .poison import Poison
from .pricing import PriceTable
from .views import VIEWS

LONGEST_WAIT: Final = max(view.flush_every for view in VIEWS.values())

__all__ = ["Checkpoint", "Ingest", "IngestConfig", "Letter", "Outbox", "Record"]

_BATCH: Final = 256
"""Records decoded at once: more structs kept alive together are slower to make, see ``request_columns``."""


class Ingest:
    """Folds the records of one partition of a topic of events.

    Args:
        topic: the source topic's name.
        partition: its partition.
        config: the rules.
        prices: unit prices by provider, model and time.
        checkpoint: where an earlier life of this partition left off.
        admitted: series admitted before ``checkpoint.epoch``, in any order.
        kind: what the topic carries.
        poison: events that are left out since they cannot be processed.
    """

    def __init__(
        self,
        topic: str,
        partition: int,
        config: IngestConfig,
        prices: PriceTable,
        checkpoint: Checkpoint | None = None,
        admitted: Iterable[Admitted] = (),
        kind: Kind = REQUESTS,
        poison: Poison | None = None,
    ) -> None:
        self.topic = topic
        self.partition = partition
        self._config = config
        self._codec = Codec(kind.wire)
        self.poison = poison or Poison()
        checkpoint = checkpoint or Checkpoint()
        self._checkpoint = checkpoint
        admitted = list(admitted)
        self._admission = Admission(config.max_series, config.max_dimension_values, admitted)
        self._stored = {(a.epoch, a.day) for a in admitted}
        self._forgotten: list[tuple[int, int]] = []
        self._ahead = 0.0
        self._fold = kind.fold(topic, prices, self._admission)
        self.position = checkpoint.previous
        """The next offset to apply; seek here."""
        self._epoch = checkpoint.epoch
        self._previous = checkpoint.previous
        self._last = -1
        self._watermark = checkpoint.watermark
        self._epoch_watermark = checkpoint.watermark
        self._complete = checkpoint.watermark
        self._epoch_events = 0
        self._epoch_clock = 0
        self._ids: set[str] = set()
        self._old_ids: set[str] = set()
        self._sealed: list[PaneBatch] = []
        self._letters: list[Letter] = []
        self._admitted: list[Admitted] = []
        self.outcomes: Counter[str] = Counter()
        """Events read in this life by what became of them; the intake view is what counts each of them once."""

    @property
    def watermark(self) -> float:
        """The greatest event time seen, in Unix seconds; 0 before the first event."""
        return self._watermark

    @property
    def catching_up(self) -> bool:
        """Whether what is being read was delivered before a restart."""
        return self.position <= self._checkpoint.last

    @property
    def sealed(self) -> bool:
        """Whether an epoch has ended whose panes wait to be delivered."""
        return bool(self._sealed)

    @property
    def pending(self) -> bool:
        """Whether a flush would have anything to deliver."""
        return bool(self._sealed or self._letters or self._fold.pending)

    def skip_to(self, earliest: int) -> int:
        """Begin behind what retention has deleted; returns how many unprocessed offsets are lost for good.

        Args:
            earliest: the first offset that the topic still holds.
        """
        if earliest <= self._previous:
            return 0
        if earliest > self._epoch:
            # A part of the epoch is gone, but the second stage has all of it up to `last`: go on behind that.
            start = max(earliest, self._checkpoint.last + 1)
            lost = max(0, earliest - max(self._checkpoint.last + 1, self._epoch))
            self._epoch = self._previous = self.position = start
            return lost
        self._previous = self.position = earliest
        return 0

    def apply(self, records: Sequence[Record]) -> int:
        """Fold a contiguous run of records; those before ``position`` are skipped. Returns the events folded."""
        applied = 0
        first = 0
        while first < len(records) and records[first].offset < self._epoch:
            if records[first].offset >= self.position:
                self._remember(records[first])
            first += 1
        while first < len(records) and records[first].offset < self.position:
            first += 1
        for begin in range(first, len(records), _BATCH):
            batch = records[begin : begin + _BATCH]
            folded = self._fold_singles(batch)
            applied += self._fold_any(batch) if folded is None else folded
        if records and records[-1].offset >= self.position:
            self.position = records[-1].offset + 1
        return applied

    def idle(self) -> PaneBatch:
        """What to tell the second stage when nothing new comes and nothing is pending."""
        return PaneBatch(self.topic, self.partition, self._epoch, self._last, self._complete, [], idle=True)

    def flush(self, now: float, *, whole: bool = False) -> Outbox:
        """Take everything that changed since the last flush.

        Args:
            now: any steadily growing seconds; paces the wide panes, decides no figure.
            whole: take the wide panes too, whether or not it is their turn.
        """
        if whole:
            self._ahead += LONGEST_WAIT  # to the fold, as much time has passed as any view waits
        panes = self._fold.snapshots(now + self._ahead)
        self._note_complete()
        batches, self._sealed = self._sealed, []
        if panes:
            batches.append(self._batch(panes))
        letters, self._letters = sorted(self._letters, key=_place), []
        admitted, self._admitted = self._admitted, []
        forgotten, self._forgotten = self._forgotten, []
        done = self._checkpoint.last
        checkpoint = Checkpoint(
            self._previous, self._epoch, self._epoch_watermark, max(done, self.position - 1)
        )
        # What was delivered before the restart is not delivered again: panes would be refused as old versions,
        # dead letters would appear twice.
        letters = [letter for letter in letters if letter.offset > done]
        self._checkpoint = checkpoint
        return Outbox(batches, letters, admitted, checkpoint, forgotten)

    def _batch(self, panes: list[PaneSnapshot]) -> PaneBatch:
        return PaneBatch(self.topic, self.partition, self._epoch, self._last, self._complete, panes)

    def _note_complete(self) -> None:
        # Announced is only what holds for every view: were it the newest, the second stage would give up wide panes
        # that still wait here for their turn.
        if not self._fold.pending:
            self._complete = self._watermark

    def _remember(self, record: Record) -> None:
        events, _ = self.poison.decode(self._codec, record)
        limit = self._latest(record)
        self._old_ids.update(event.id for event in events if event.time <= limit)

    def _fold_singles(self, batch: Sequence[Record]) -> int | None:
        """Fold records of one good event each, the common case; ``None`` where it is not, and nothing was done."""
        stamps = [record.timestamp for record in batch]
        if not self._epoch_events:
            self._epoch_clock = stamps[0]
        if (
            self._epoch_events + len(batch) > self._config.epoch_events
            or max(stamps) - self._epoch_clock >= self._config.epoch_seconds * 1000
        ):
            return None  # the epoch may end in the middle
        if self.poison.meets(batch):
            return None
        decode = self._codec.decode_one
        try:
            events = [decode(record.value) for record in batch]  # type: ignore[arg-type]
        except (msgspec.MsgspecError, RecursionError, UnicodeDecodeError, TypeError):
            return None
        if (
            max([event.schema_version for event in events]) > SCHEMA_VERSION
            or max([event.time for event in events]) > min(stamps) / 1000 + self._config.future_tolerance
            or max([len(record.value or b"") for record in batch]) > MAX_MESSAGE_BYTES
        ):
            return None
        self._epoch_events += len(batch)
        self._last = batch[-1].offset
        return self._fold_events(events, stamps)

    def _fold_any(self, batch: Sequence[Record]) -> int:
        """Fold whatever comes, record by record."""
        applied = 0
        events: list[Any] = []
        stamps: list[int] = []
        for record in batch:
            if self._epoch_ends(record):
                applied += self._fold_events(events, stamps)
                events, stamps = [], []
                self._seal(record.offset)
            if not self._epoch_events:
                self._epoch_clock = record.timestamp
            self._last = record.offset
            found, refused = self.poison.decode(self._codec, record)
            self._epoch_events += len(found) + len(refused)
            if found and max([event.time for event in found]) > self._latest(record):
                found, refused = self._without_future(record, found, refused)
            for refusal in refused:
                self._count(record.timestamp, f"refused_{refusal.error.reason}")
                self._letters.append(Letter(record.offset, refusal))
            events += found
            stamps += [record.timestamp] * len(found)
            if len(events) >= _BATCH:
                applied += self._fold_events(events, stamps)
                events, stamps = [], []
        return applied + self._fold_events(events, stamps)

    def _epoch_ends(self, record: Record) -> bool:
        if not self._epoch_events:
            return False
        clock = record.timestamp - self._epoch_clock
        return self._epoch_events >= self._config.epoch_events or clock >= self._config.epoch_seconds * 1000

    def _latest(self, record: Record) -> float:
        """The greatest event time that a record may hold."""
        return record.timestamp / 1000 + self._config.future_tolerance

    def _without_future(
        self, record: Record, found: Sequence[Any], refused: list[Refused]
    ) -> tuple[list[Any], list[Refused]]:
        """Refuse those of a message's good events that come too early."""
        latest = self._latest(record)
        expected = f"at most {self._config.future_tolerance:g} s after Kafka received it"
        error = InvalidEventError("future_time", "time", expected)
        message = record.value or b""
        return part(self._codec, message, (found, refused), lambda _, event: event.time > latest, error)

    def _fold_events(self, events: Sequence[Any], stamps: Sequence[int]) -> int:
        """Fold events that are valid and not of the future, with the append time of each."""
        if not events:
            return 0
        ids = {event.id for event in events}
        times = [event.time for event in events]
        watermark = max(self._watermark, max(times))
        if (
            len(ids) == len(events)
            and self._ids.isdisjoint(ids)
            and self._old_ids.isdisjoint(ids)
            and min(times) >= watermark - self._config.allowed_lateness
        ):
            self._ids |= ids
            self._watermark = watermark
            for minute, number in Counter([stamp // 60_000 for stamp in stamps]).items():
                self._count(minute * 60_000, "applied", number)
        else:
            events = self._sift(events, stamps)
        if events:
            self._fold.add(events)
        return len(events)

    def _count(self, stamp: int, outcome: str, events: int = 1) -> None:
        self.outcomes[outcome] += events
        self._fold.count(stamp, outcome, events)

    def _sift(self, events: Sequence[Any], stamps: Sequence[int]) -> list[Any]:
        """The events that are no duplicates and not late; counts all of them."""
        good = []
        for event, stamp in zip(events, stamps, strict=True):
            identity, time = event.id, event.time
            if identity in self._ids or identity in self._old_ids:
                outcome = "duplicate"
            elif time < self._watermark - self._config.allowed_lateness:
                outcome = "late"
            else:
                outcome = "applied"
                self._watermark = max(self._watermark, time)
                good.append(event)
            # Remembered anew, as re-reading from here after a restart would.
            self._ids.add(identity)
            self._count(stamp, outcome)
        return good

    def _seal(self, offset: int) -> None:
        panes = self._fold.seal()
        self._note_complete()
        if panes:
            self._sealed.append(self._batch(panes))
        self._seal_admission(self._watermark - self._config.allowed_lateness)
        self._previous, self._epoch = self._epoch, offset
        self._epoch_watermark = self._watermark
        self._epoch_events = 0
        self._old_ids, self._ids = self._ids, set()

    def _seal_admission(self, horizon: float) -> None:
        admitted = self._admission.seal(self._epoch, horizon)
        self._admitted += admitted
        self._stored |= {(a.epoch, a.day) for a in admitted}
        # No event in time asks for these days any more, from the epoch on that now begins.
        gone = sorted((epoch, day) for epoch, day in self._stored if (day + 1) * DAY <= horizon)
        self._stored.difference_update(gone)
        self._forgotten += gone


def _place(letter: Letter) -> tuple[int, int]:
    index = letter.refused.index
    return letter.offset, -1 if index is None else index

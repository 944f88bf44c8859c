"""The first stage for one source partition: a pure function of its log.

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

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Protocol

import msgspec

from tidegauge.errors import InvalidEventError
from tidegauge.schemas.codec import MAX_MESSAGE_BYTES, Codec, Refused
from tidegauge.schemas.pane import PaneBatch, PaneSnapshot
from tidegauge.schemas.request import RequestEvent

from .cardinality import Admission, Admitted
from .fold import Fold
from .pricing import PriceTable


class Record(Protocol):
    """A Kafka record as the first stage needs it: ``timestamp`` is the append time in milliseconds."""

    offset: int
    timestamp: int
    value: bytes | None


@dataclass(frozen=True)
class IngestConfig:
    """What all workers of a group must agree on; times in seconds. See ``tidegauge.settings.Worker``."""

    allowed_lateness: float = 7_200.0
    future_tolerance: float = 300.0
    epoch_events: int = 131_072
    epoch_seconds: float = 600.0
    max_series: int = 10_000
    max_dimension_values: int = 2_000


class Checkpoint(msgspec.Struct, frozen=True):
    """Where to begin again, and what the log before that decided.

    ``previous`` and ``epoch`` are the first offsets of the previous and the current epoch, ``watermark`` the
    greatest event time before ``epoch``, ``last`` the last offset whose snapshots and dead letters are known to
    have been delivered (-1: none).
    """

    previous: int = 0
    epoch: int = 0
    watermark: float = 0.0
    last: int = -1


@dataclass(frozen=True)
class Letter:
    """A refused event for the dead letter topic, with the offset of its record."""

    offset: int
    refused: Refused


class Outbox(msgspec.Struct):
    """What must be delivered, in this order, before ``checkpoint`` may be stored."""

    batches: list[PaneBatch]
    letters: list[Letter]
    admitted: list[Admitted]
    checkpoint: Checkpoint


class Ingest:
    """Folds the records of one partition of the requests topic.

    Args:
        topic: the source topic's name.
        partition: its partition.
        config: the rules.
        prices: unit prices by provider, model and time.
        checkpoint: where an earlier life of this partition left off.
        admitted: series admitted before ``checkpoint.epoch``, in any order.
    """

    def __init__(
        self,
        topic: str,
        partition: int,
        config: IngestConfig,
        prices: PriceTable,
        checkpoint: Checkpoint | None = None,
        admitted: Iterable[Admitted] = (),
    ) -> None:
        self.topic = topic
        self.partition = partition
        self._config = config
        self._codec = Codec(RequestEvent)
        checkpoint = checkpoint or Checkpoint()
        self._checkpoint = checkpoint
        self._admission = Admission(config.max_series, config.max_dimension_values, admitted)
        self._fold = Fold(topic, prices, self._admission)
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

    def apply(self, records: Iterable[Record]) -> int:
        """Fold a contiguous run of records; those before ``position`` are skipped. Returns the events folded."""
        applied = 0
        for record in records:
            offset = record.offset
            if offset < self.position:
                continue
            if offset < self._epoch:
                self._remember(record)
            else:
                applied += self._fold_record(record)
            self.position = offset + 1
        return applied

    def flush(self, now: float) -> Outbox:
        """Take everything that changed since the last flush.

        Args:
            now: any steadily growing seconds; paces the wide panes, decides no figure.
        """
        panes = self._fold.snapshots(now)
        self._note_complete()
        batches, self._sealed = self._sealed, []
        if panes:
            batches.append(self._batch(panes))
        letters, self._letters = self._letters, []
        admitted, self._admitted = self._admitted, []
        done = self._checkpoint.last
        checkpoint = Checkpoint(
            self._previous, self._epoch, self._epoch_watermark, max(done, self.position - 1)
        )
        # What was delivered before the restart is not delivered again: panes would be refused as old versions,
        # dead letters would appear twice.
        letters = [letter for letter in letters if letter.offset > done]
        self._checkpoint = checkpoint
        return Outbox(batches, letters, admitted, checkpoint)

    def _batch(self, panes: list[PaneSnapshot]) -> PaneBatch:
        return PaneBatch(self.topic, self.partition, self._epoch, self._last, self._complete, panes)

    def _note_complete(self) -> None:
        # Announced is only what holds for every view: were it the newest, the second stage would give up wide panes
        # that still wait here for their turn.
        if not self._fold.pending:
            self._complete = self._watermark

    def _remember(self, record: Record) -> None:
        events, _ = self._codec.decode(record.value)
        limit = record.timestamp / 1000 + self._config.future_tolerance
        self._old_ids.update(event.id for event in events if event.time <= limit)

    def _fold_record(self, record: Record) -> int:
        if self._epoch_events:
            clock = record.timestamp - self._epoch_clock
            if self._epoch_events >= self._config.epoch_events or clock >= self._config.epoch_seconds * 1000:
                self._seal(record.offset)
        if not self._epoch_events:
            self._epoch_clock = record.timestamp
        value = record.value
        self._last = record.offset
        # The common case, one good event a message, skips the building of lists.
        if value is not None and value[:1] == b"{" and len(value) <= MAX_MESSAGE_BYTES:
            try:
                event = self._codec.decode_one(value)
                if event.schema_version == 1:
                    self._epoch_events += 1
                    return self._fold_event(event, record)
            except (msgspec.MsgspecError, RecursionError, UnicodeDecodeError):
                pass  # the codec below finds it again and says why
        events, refused = self._codec.decode(value)
        self._epoch_events += len(events) + len(refused)
        applied = 0
        for event in events:
            applied += self._fold_event(event, record)
        for refusal in refused:
            self._refuse(record, refusal)
        return applied

    def _fold_event(self, event: RequestEvent, record: Record) -> int:
        time = event.time
        append_time = record.timestamp
        if time > append_time / 1000 + self._config.future_tolerance:
            expected = f"at most {self._config.future_tolerance:g} s after Kafka received it"
            error = InvalidEventError("future_time", "time", expected)
            self._refuse(record, Refused(None, error, msgspec.json.encode(event)))
            return 0
        identity = event.id
        if identity in self._ids or identity in self._old_ids:
            # Remembered anew, as re-reading from here after a restart would.
            self._ids.add(identity)
            self._fold.count(append_time, "duplicate")
            return 0
        self._ids.add(identity)
        if time < self._watermark - self._config.allowed_lateness:
            self._fold.count(append_time, "late")
            return 0
        if time > self._watermark:
            self._watermark = time
        self._fold.add(event)
        self._fold.count(append_time, "applied")
        return 1

    def _refuse(self, record: Record, refused: Refused) -> None:
        self._fold.count(record.timestamp, f"refused_{refused.error.reason}")
        self._letters.append(Letter(record.offset, refused))

    def _seal(self, offset: int) -> None:
        panes = self._fold.seal()
        self._note_complete()
        if panes:
            self._sealed.append(self._batch(panes))
        self._admitted += self._admission.seal(self._epoch, self._watermark - self._config.allowed_lateness)
        self._previous, self._epoch = self._epoch, offset
        self._epoch_watermark = self._watermark
        self._epoch_events = 0
        self._old_ids, self._ids = self._ids, set()

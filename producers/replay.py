"""Replay: publish a recorded trace, at its own pace or any other, and know that all of it has arrived."""

from __future__ import annotations

import hashlib
import os
import random
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from typing import Any, Final, Literal, Protocol

from tidegauge.errors import UsageError
from tidegauge.schemas.request import RequestEvent

from .columns import ColumnMap
from .publisher import PublisherStats
from .sources import Report, Trace

Speed = Literal["recorded", "max"] | float
Progress = Callable[[int], None]
"""Called with the number of events published so far, a few times a second at most."""

_PUSH_AFTER: Final = 0.01


class Publisher(Protocol):
    """What replaying needs of a publisher; ``ReliablePublisher`` has it."""

    def publish(self, topic: str, key: str, event: Any) -> None:
        """Publish an event; may block."""

    def push(self) -> None:
        """Send what is grouped."""

    def flush(self) -> None:
        """Wait until everything is acknowledged or failed."""

    @property
    def stats(self) -> PublisherStats:
        """Where all events are."""


@dataclass(frozen=True)
class ReplayResult:
    """What a replay did.

    Attributes:
        report: what became of the records.
        stats: what became of the events.
        shift: how far the trace was moved, in seconds.
        seconds: how long it took.
        span: the first and the last event time published, in Unix seconds.
        lag: how far an event came at most after a later one, in seconds of their times.
    """

    report: Report
    stats: PublisherStats
    shift: float
    seconds: float
    span: tuple[float, float]
    lag: float


def replay(
    path: str | os.PathLike[str],
    *,
    format: str,  # noqa: A002
    publisher: Publisher,
    topic: str,
    columns: ColumnMap | None = None,
    constants: Mapping[str, str] | None = None,
    speed: Speed = "max",
    move_to: Literal["now"] | float | None = None,
    limit: int | None = None,
    shuffle: int | None = None,
    sort: bool = False,
    strict: bool = False,
    user_key: bytes = b"",
    progress: Progress | None = None,
) -> ReplayResult:
    """Publish a recorded trace.

    Args:
        path: the file, see ``sources.Trace``, as for ``format``, ``columns``, ``constants``, ``strict`` and
            ``user_key``.
        format: one of ``trace_formats.FORMATS``.
        publisher: sends the events and awaits Kafka's word for each.
        topic: where to.
        columns: the column map, for ``jsonl`` and ``csv``.
        constants: values of fields for all events.
        speed: ``recorded``, ``max``, or how many times as fast as recorded.
        move_to: shift all times so that the last event is at this Unix time; ``now``: at the moment when the
            replay will end, so that a replay at recorded speed is of the present. Moved events are other events:
            their ids contain the shift. The same move of the same trace gives the same ids.
        limit: only the first so many events.
        shuffle: seed of a random order of arrival; holds the whole trace in memory.
        sort: publish in order of time, as workers expect it; holds the whole trace in memory.
        strict: stop at the first bad record.
        user_key: key of the users' pseudonyms.
        progress: told of the progress.

    Raises:
        UsageError: an argument is wrong.
        UnavailableError: the file cannot be read.
        BrokerUnavailableError: Kafka did not take all.
    """
    rate = _rate(speed)
    if shuffle is not None and sort:
        raise UsageError("shuffle, sort: one of them")
    if shuffle is not None and rate is not None:
        raise UsageError("shuffle: needs speed max; a shuffled trace has no pace")
    trace = Trace(path, format, columns=columns, constants=constants, strict=strict, user_key=user_key)
    shift = 0.0
    if move_to is not None:
        span = trace.span(limit)
        if move_to == "now":
            move_to = time.time() + ((span.last - span.first) / rate if rate else 0.0)
        shift = round(move_to - span.last, 3)
    events: Iterable[RequestEvent] = islice(trace, limit)
    if shift:
        events = (moved(event, shift) for event in events)
    if shuffle is not None:
        events = list(events)
        random.Random(shuffle).shuffle(events)
    if sort:
        events = sorted(events, key=lambda event: event.time)
    start, order = time.monotonic(), _Order()
    publish_paced(((order(event.time), topic, event) for event in events), publisher, rate, progress)
    spent = time.monotonic() - start
    return ReplayResult(trace.report, publisher.stats, shift, spent, (order.first, order.newest), order.lag)


class _Order:
    """Looks on as event times pass."""

    def __init__(self) -> None:
        self.first, self.newest, self.lag = float("inf"), float("-inf"), 0.0

    def __call__(self, moment: float) -> float:
        self.first, self.newest = min(self.first, moment), max(self.newest, moment)
        self.lag = max(self.lag, self.newest - moment)
        return moment


def moved(event: RequestEvent, shift: float) -> RequestEvent:
    """The event ``shift`` seconds later, under an id of its own; changes it in place."""
    event.time = round(event.time + shift, 6)
    event.id = hashlib.blake2b(f"{event.id} {shift:.3f}".encode(), digest_size=16).hexdigest()
    return event


def publish_paced(
    items: Iterable[tuple[float, str, Any]],
    publisher: Publisher,
    rate: float | None,
    progress: Progress | None = None,
    begin: float | None = None,
) -> None:
    """Publish (time, topic, event), each when its time has come, and wait for every acknowledgement.

    Args:
        items: in order of time; what comes late goes out at once.
        publisher: sends them.
        rate: seconds of the items' time that pass in a second; ``None``: do not wait.
        progress: told of the progress.
        begin: the items' time at which the clock starts; ``None``: the first item's.

    Raises:
        BrokerUnavailableError: Kafka did not take all.
    """
    for count, (_, topic, event) in enumerate(_paced(items, publisher, rate, begin), 1):
        publisher.publish(topic, event.id, event)
        if progress is not None and (rate is not None or count % 200 == 0):
            progress(count)
    publisher.flush()
    if progress is not None:
        progress(publisher.stats.published)


def _paced(
    items: Iterable[tuple[float, str, Any]], publisher: Publisher, rate: float | None, begin: float | None
) -> Iterator[tuple[float, str, Any]]:
    if rate is None:
        yield from items
        return
    start = time.monotonic()
    for item in items:
        if begin is None:
            start, begin = time.monotonic(), item[0]
        wait = start + (item[0] - begin) / rate - time.monotonic()
        if wait > _PUSH_AFTER:
            publisher.push()
        if wait > 0:
            time.sleep(wait)
        yield item


def _rate(speed: Speed) -> float | None:
    if speed == "max":
        return None
    if speed == "recorded":
        return 1.0
    if not isinstance(speed, int | float) or not 0 < speed < float("inf"):
        raise UsageError("speed: expected recorded, max, or a number above 0")
    return float(speed)

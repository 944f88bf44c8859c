"""Questions to a store: panes read, merged exactly, and shown as rows or as a pandas frame.

Counters are summed as integers and percentiles come from merged sketches, so an hour asked for in one row is as
exact as its minutes. Three rules:

- A pane cannot be divided: every pane that overlaps the range counts whole. So a range is taken as if its ends
  stood at the edges of panes, and the last hour of a view with daily panes is today.
- ``time`` is always the start of the span that a row covers. Steps (``every``) start at multiples of their length
  since the Unix epoch; they share out the range, so the first and the last may be cut by its ends.
- A rolling window (``window``) ends with each step of the range and is read in full, also before the range.

Rates per second are over the seconds that a row's span has in common with the range. A bound that is not given is
that of the data. Long ranges read fastest from the views of hourly panes, ``latency_1h`` and ``cost_1h``.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from time import sleep
from typing import TYPE_CHECKING, Final

from tidegauge.errors import StateError, UsageError
from tidegauge.processors.core.aggregate import Aggregate
from tidegauge.processors.core.figures import DIMENSIONS as PIPELINE_DIMENSIONS
from tidegauge.processors.core.figures import MEASUREMENT as PIPELINE
from tidegauge.processors.core.figures import figure
from tidegauge.processors.core.views import MEASUREMENTS, FieldValue, Stored

from .base import Point, Store
from .panes import PaneReader
from .pipeline import pipeline_columns, pipeline_rows
from .windows import SlidingWindow

if TYPE_CHECKING:
    import pandas as pd

Row = dict[str, FieldValue | None]
_Key = tuple[str, ...]
_LOOKS: Final = 5
_LOOK_AGAIN: Final = 0.05
VIEWS: Final = (*MEASUREMENTS, PIPELINE)
"""What can be asked for. Of them ``pipeline`` alone is not made of panes; see ``sinks/pipeline.py``."""


def rows(
    store: Store,
    view: str,
    *,
    start: int | None = None,
    end: int | None = None,
    every: int | None = None,
    window: int | None = None,
    by: Sequence[str] = (),
    where: Mapping[str, str] | None = None,
) -> list[Row]:
    """Merge the panes of a view.

    Args:
        store: where to read.
        view: a measurement's name, such as latency, cost or guardrails.
        start: first second (Unix) of the range; ``None`` is the start of the first pane.
        end: the second after the range; ``None`` is the end of the last pane.
        every: seconds in one step, a multiple of the view's pane width; ``None`` is the whole range in one row.
        window: seconds of a rolling window, a multiple of ``every``; ``None`` is no longer than a step.
        by: dimensions to tell apart; all others are merged.
        where: dimensions that must have a value.

    Returns:
        Rows in order of time, then of the dimensions: ``time`` (Unix seconds), the dimensions, the fields in the
        units of the stored ones. All rows have the same fields; one without a value (a percentile of nothing)
        is ``None``. Steps without a pane have no row.

    Raises:
        UsageError: no such view or dimension, a length that panes do not fit, or an empty range.
        StateError: a stored pane's counters or sketches cannot be read.
        SinkUnavailableError: the store does not answer.
    """
    by = list(dict.fromkeys(by))
    check(view, start=start, end=end, every=every, window=window, by=by, where=where)
    if view == PIPELINE:
        return pipeline_rows(store, start=start, end=end, every=every, by=by, where=where)
    stored = _stored(view)
    span = _Span(stored.view.width, start, end, every, (window or every or 0) - (every or 0))
    steps = _merge(store, stored, span, where, by)
    result: list[tuple[int, _Key, dict[str, FieldValue]]] = []
    for key, panes in steps.items():
        for time, total in _roll(stored, span, panes):
            result.append((time, key, stored.view.fields(stored.measurement, total, span.seconds(time))))
    result.sort(key=lambda row: row[:2])
    names = dict.fromkeys(columns(view, by))
    for _, _, fields in result:
        names |= dict.fromkeys(fields)
    return [
        {**names, "time": time, **dict(zip(by, key, strict=True)), **fields} for time, key, fields in result
    ]


def check(
    view: str,
    *,
    start: int | None = None,
    end: int | None = None,
    every: int | None = None,
    window: int | None = None,
    by: Sequence[str] = (),
    where: Mapping[str, str] | None = None,
) -> None:
    """Raise ``UsageError`` unless ``rows`` can answer, before there is a store to ask."""
    width = 1 if view == PIPELINE else _stored(view).view.width
    if every is not None and (every <= 0 or every % width):
        raise UsageError(f"--every must be a multiple of this view's panes of {width} s, not {every} s")
    if window is not None and view == PIPELINE:
        raise UsageError("--window: the pipeline's own figures have no rolling spans; ask with --every")
    if window is not None and (every is None or window <= 0 or window % every):
        raise UsageError("--window must be a multiple of --every, which it needs")
    if start is not None and end is not None and start >= end:
        raise UsageError("the range must start before it ends")
    for name in (*by, *(where or {})):
        if name not in dimensions(view):
            raise UsageError(f"no dimension '{name}' here; there are {', '.join(dimensions(view))}")


def dimensions(view: str) -> Sequence[str]:
    """What the rows of a view can be told apart by; raises ``UsageError``: no such view."""
    return PIPELINE_DIMENSIONS if view == PIPELINE else _stored(view).view.dimensions


def columns(view: str, by: Sequence[str] = ()) -> list[str]:
    """Names in the rows of a view, whatever is stored; fields derived from others may join them.

    Raises:
        UsageError: no such view.
    """
    if view == PIPELINE:
        return pipeline_columns(by)
    stored = _stored(view)
    probe = stored.view.empty()
    for sketch in probe.sketches:
        sketch.add(0)
    return list(dict.fromkeys(["time", *by, *stored.view.fields(stored.measurement, probe)]))


def query(
    store: Store,
    view: str,
    *,
    start: int | None = None,
    end: int | None = None,
    every: int | None = None,
    window: int | None = None,
    by: Sequence[str] = (),
    where: Mapping[str, str] | None = None,
) -> pd.DataFrame:
    """The same as ``rows``, as a frame: see ``frame`` for its types."""
    found = rows(store, view, start=start, end=end, every=every, window=window, by=by, where=where)
    return frame(view, found, by)


def frame(view: str, found: Sequence[Row], by: Sequence[str] = ()) -> pd.DataFrame:
    """Rows as a frame: ``time`` a UTC timestamp, counts int64, all other fields float64 with NaN for none."""
    import pandas as pd

    names = list(found[0]) if found else columns(view, by)
    whole = _whole_numbers(view, names)
    data: dict[str, pd.Series] = {}
    for name in names:
        values = [row[name] for row in found]
        if name == "time":
            data[name] = pd.to_datetime(pd.Series(values, dtype="int64"), unit="s", utc=True)
        elif name in by:
            data[name] = pd.Series(values, dtype="str")
        elif name in whole:
            data[name] = pd.Series(values, dtype="int64" if _fits(values) else "object")
        else:
            data[name] = pd.Series(values, dtype="float64")
    return pd.DataFrame(data, columns=names)


def _whole_numbers(view: str, names: Sequence[str]) -> set[str]:
    if view == PIPELINE:
        return {name for name in names if (known := figure(name)) is not None and known.within == "counter"}
    measurement = _stored(view).measurement
    return {*measurement.counters, *(f"{d.name}_count" for d in measurement.distributions)}


def _fits(values: Sequence[FieldValue | None]) -> bool:
    return all(isinstance(value, int) and abs(value) < 2**63 for value in values)


@dataclass
class _Span:
    """The range that is asked for. ``back`` is how far windows reach before it, in seconds."""

    width: int
    start: int | None
    end: int | None
    every: int | None
    back: int

    def __post_init__(self) -> None:
        self.first: int | None = None
        if self.start is not None:
            # Windows are whole, so theirs is the whole first step.
            edge = self.every if self.every and self.back else self.width
            self.first = self.start - self.start % edge - self.back
        self.last: int | None = None if self.end is None else self.end + -self.end % self.width

    def meet(self, time: int) -> None:
        """Take a pane's time into a bound that was not given."""
        if self.start is None and (self.first is None or time < self.first):
            self.first = time
        if self.end is None and (self.last is None or time + self.width > self.last):
            self.last = time + self.width

    def step(self, time: int) -> int:
        """The start of the step that a moment belongs to, or of the whole range; panes come in order of time."""
        if self.every:
            return time - time % self.every
        assert self.first is not None
        return self.first

    def seconds(self, time: int) -> float:
        """What a row's span, from ``time`` on, and the range have in common."""
        assert self.first is not None
        assert self.last is not None
        until = min(time + self.every + self.back, self.last) if self.every else self.last
        return float(until - max(time, self.first))


def _merge(
    store: Store, stored: Stored, span: _Span, where: Mapping[str, str] | None, by: Sequence[str]
) -> dict[_Key, dict[int, Aggregate]]:
    read = PaneReader(stored)
    steps: dict[_Key, dict[int, Aggregate]] = {}
    for point in store.read(stored.measurement.name, span.first, span.end, where):
        span.meet(point.time)
        groups = steps.setdefault(tuple(point.tags.get(name, "") for name in by), {})
        pane, step = _whole(store, read, point), span.step(point.time)
        if step in groups:
            groups[step].merge(pane)
        else:
            groups[step] = pane
    return steps


def _whole(store: Store, read: PaneReader, point: Point) -> Aggregate:
    # A store may show a point's fields one by one while they are written: look again before calling it damaged.
    for _ in range(_LOOKS - 1):
        try:
            return read(point)
        except StateError:
            sleep(_LOOK_AGAIN)
        found = store.read(point.measurement, point.time, point.time + 1, point.tags)
        point = next((other for other in found if other.tags == point.tags), point)
    return read(point)


def _roll(stored: Stored, span: _Span, steps: dict[int, Aggregate]) -> Iterator[tuple[int, Aggregate]]:
    """Yields spans by their start: the steps themselves, or windows that end with each of them."""
    if not span.every or not span.back:
        yield from steps.items()
        return
    rolling = SlidingWindow(stored.view)
    waiting = sorted(steps.items(), reverse=True)
    newest = waiting[0][0]
    if span.end is not None:
        newest = span.step(span.end - 1)  # what has been goes on to count until it is a window old
    time = waiting[-1][0]
    while time <= newest:
        if waiting and waiting[-1][0] == time:
            rolling.push(*waiting.pop())
        rolling.expire(time - span.back)
        total = rolling.total()
        if total is not None:
            if span.start is None or time >= span.step(span.start):
                yield time - span.back, total
            time += span.every
        elif waiting:
            time = waiting[-1][0]  # over a gap in the data, of whatever length
        else:
            return


def _stored(view: str) -> Stored:
    stored = MEASUREMENTS.get(view)
    if stored is None:
        raise UsageError(f"no view '{view}'; there are {', '.join(sorted(VIEWS))}")
    return stored

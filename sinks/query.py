"""Questions to a store: panes read, merged exactly, and shown as a pandas frame.

Counters are summed as integers and percentiles come from merged sketches, so an hour asked for in one row is as
exact as its minutes. ``time`` is always the start of the span that a row covers.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import msgspec

from tidegauge.errors import UsageError
from tidegauge.processors.core.aggregate import Aggregate
from tidegauge.processors.core.sketch import Sketch
from tidegauge.processors.core.views import MEASUREMENTS, FieldValue, Measurement, View
from tidegauge.schemas.pane import SketchSnapshot

from .base import Point, Store

if TYPE_CHECKING:
    import pandas as pd

Row = dict[str, FieldValue | None]
_decode_sketch = msgspec.json.Decoder(SketchSnapshot).decode


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
        start: first second (Unix) of the range; ``None`` is the beginning.
        end: the second after the range; ``None`` is the end.
        every: seconds in one row, a multiple of the view's pane width; ``None`` is the whole range in one row.
        window: with ``every``, rolling spans: one of ``window`` seconds ends at each multiple of ``every``.
        by: dimensions to tell apart; all others are merged.
        where: dimensions that must have a value.

    Returns:
        Rows in order of time, then of the dimensions: ``time`` (Unix seconds), the dimensions, the fields.

    Raises:
        UsageError: no such view or dimension, or a width that panes do not fit.
        SinkUnavailableError: the store does not answer.
    """
    stored = MEASUREMENTS.get(view)
    if stored is None:
        raise UsageError(f"no view '{view}'; there are {', '.join(sorted(MEASUREMENTS))}")
    _check(stored.view, every, window, [*by, *(where or {})])
    groups: dict[tuple[int, tuple[str, ...]], Aggregate] = {}
    span: dict[tuple[str, ...], tuple[int, int]] = {}
    for point in store.read(view, start, end, where):
        key = tuple(point.tags.get(name, "") for name in by)
        first, _ = span.get(key, (point.time, 0))
        span[key] = (first, point.time + stored.view.width)
        bucket = point.time - point.time % every if every else 0
        total = groups.get((bucket, key))
        if total is None:
            total = groups[bucket, key] = stored.view.empty()
        total.merge(_aggregate(stored.view, stored.measurement, point))
    if every and window:
        groups = _roll(groups, stored.view, every, window)
    result: list[Row] = []
    for (bucket, key), total in sorted(groups.items(), key=lambda item: item[0]):
        time, until = (bucket, bucket + (window or every)) if every else span[key]
        if not every and start is not None and end is not None:
            time, until = start, end
        fields = stored.view.fields(stored.measurement, total, float(until - time))
        result.append({"time": time, **dict(zip(by, key, strict=True)), **fields})
    return result


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
    """The same as ``rows``, as a frame; ``time`` is a UTC timestamp and counts stay integers."""
    import pandas as pd

    frame = pd.DataFrame(
        rows(store, view, start=start, end=end, every=every, window=window, by=by, where=where)
    )
    if not frame.empty:
        frame["time"] = pd.to_datetime(frame["time"], unit="s", utc=True)
    return frame


def _roll(
    steps: dict[tuple[int, tuple[str, ...]], Aggregate], view: View, every: int, window: int
) -> dict[tuple[int, tuple[str, ...]], Aggregate]:
    """Spans of ``window`` seconds, by their start, ending at every step from the first to the last with data."""
    rolled: dict[tuple[int, tuple[str, ...]], Aggregate] = {}
    for key in dict.fromkeys(key for _, key in steps):
        starts = [start for start, other in steps if other == key]
        for end in range(min(starts) + every, max(starts) + every + 1, every):
            total = view.empty()
            for start in range(end - window, end, every):
                if (start, key) in steps:
                    total.merge(steps[start, key])
            if any(total.counters):
                rolled[end - window, key] = total
    return rolled


def _check(view: View, every: int | None, window: int | None, dimensions: Sequence[str]) -> None:
    if window is not None and (every is None or window <= 0 or window % every):
        raise UsageError("--window must be a multiple of --every, which it needs")
    if every is not None and (every <= 0 or every % view.width):
        raise UsageError(f"--every must be a multiple of this view's panes of {view.width} s")
    for name in dimensions:
        if name not in view.dimensions:
            raise UsageError(f"no dimension '{name}' here; there are {', '.join(view.dimensions)}")


def _aggregate(view: View, measurement: Measurement, point: Point) -> Aggregate:
    counters = [0] * len(view.counters)
    for name in measurement.counters:
        value = point.fields.get(name, 0)
        counters[view.counters.index(name)] = int(value)
    sketches = []
    for distribution in view.distributions:
        text = point.fields.get(f"{distribution.name}_sketch")
        sketches.append(Sketch.restore(_decode_sketch(str(text))) if text else Sketch())
    return Aggregate(counters, sketches)

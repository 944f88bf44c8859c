"""Questions to the pipeline's own figures: gauges and counters of workers, and not panes that can be merged.

A worker writes what it knows every ten seconds, while the store is there. A counter begins at 0 with its process; so
what it rose by in a step is the sum of its rises, and where it fell a process began anew.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

from tidegauge.processors.core.figures import DIMENSIONS, FIGURES, MEASUREMENT, figure

from .base import FieldValue, Store

_Key = tuple[str, ...]
_Row = dict[str, FieldValue | None]

LOOK_BACK: Final = 3_600
"""Seconds before the range in which a counter's value before it is looked for; without one it began within."""


def pipeline_rows(
    store: Store,
    *,
    start: int | None = None,
    end: int | None = None,
    every: int | None = None,
    by: Sequence[str] = (),
    where: Mapping[str, str] | None = None,
) -> list[_Row]:
    """A row for each step and value of the dimensions asked for; see ``query.rows``, whose parameters these are.

    A partition that changed hands within a step counts as its last worker told it, unless workers are told apart.
    """
    first = start if start is None or not every else start - start % every
    steps: dict[tuple[int, _Key], dict[str, dict[_Key, float]]] = {}
    before: dict[tuple[_Key, str], float] = {}
    for point in store.read(MEASUREMENT, None if first is None else first - LOOK_BACK, end):
        tags = tuple(point.tags.get(name, "") for name in DIMENSIONS)
        named = dict(zip(DIMENSIONS, tags, strict=True))
        if any(named[name] != value for name, value in (where or {}).items()):
            continue
        within = first is None or point.time >= first
        if within and first is None and not every:
            first = point.time
        step = point.time - point.time % every if every else first or 0
        values = steps.setdefault((step, tuple(named[name] for name in by)), {}) if within else {}
        for name, value in point.fields.items():
            known = figure(name)
            if known is None or isinstance(value, str):
                continue  # of another version
            if known.within == "counter":
                last = before.get((tags, name), 0)
                before[tags, name] = value
                value = value - last if value >= last else value
            if not within:
                continue
            # Whoever tells of a partition: it is one partition.
            series = tags[1:] if known.of == "partition" else tags
            held = values.setdefault(name, {})
            held[series] = _within(known.within, held.get(series), value)
    names = {name for values in steps.values() for name in values} - set(FIGURES)
    result: list[_Row] = []
    for (step, key), values in sorted(steps.items()):
        row: _Row = {"time": step, **dict(zip(by, key, strict=True))}
        for name in (*pipeline_columns()[1:], *sorted(names)):
            row[name] = _across(name, list(values.get(name, {}).values()))
        result.append(row)
    return result


def pipeline_columns(by: Sequence[str] = ()) -> list[str]:
    """Names in the rows, whatever is stored; those of outcomes join them as they occur."""
    return ["time", *by, *FIGURES]


def _within(kind: str, held: float | None, value: float) -> float:
    if held is None or kind == "last":
        return value
    if kind == "counter":
        return held + value
    return max(held, value) if kind == "max" else min(held, value)


def _across(name: str, values: list[float]) -> float | None:
    known = figure(name)
    if not values or known is None:
        return None
    if known.across == "sum":
        return sum(values)
    return max(values) if known.across == "max" else min(values)

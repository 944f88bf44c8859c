"""The panes of one view during one epoch, held as columns.

Folding costs a handful of numpy calls for a whole block of events and not a walk through dictionaries for each. A
block is first summed by group (``group``); the groups are then added to the rows that hold their panes, in the base
view and, regrouped, in every coarser one.

Sums are exact: a number of more than 38 bits is kept as two, ``high · 2^38 + low``, so that ten million events of
whatever size the wire allows cannot overflow 64 bits.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from tidegauge.schemas.pane import LARGEST, PaneSnapshot, SketchSnapshot

from .sketch import BOUNDS, MAX_VALUE
from .views import View

Key = tuple[str, ...]
Integers = npt.NDArray[np.int64]
Flags = npt.NDArray[np.bool_]

_SPLIT: Final = 38
_LOW: Final = (1 << _SPLIT) - 1
_CODE_BITS: Final = 13
_CODE: Final = (1 << _CODE_BITS) - 1
MAX_BLOCK: Final = 1 << 15
"""Most events that ``group`` sums exactly."""
_BOUNDS: Final = np.array(BOUNDS, dtype=np.int64)
_NOTHING: Final = np.empty(0, dtype=np.int64)


@dataclass(frozen=True)
class Groups:
    """What a block of events adds to each of n panes.

    Attributes:
        low: (n, counters + 2 · distributions) sums; each distribution has its count and its total at the end.
        high: the same of what is beyond 38 bits, or ``None`` where nothing is.
        minimum: (n, distributions); ``MAX_VALUE`` where there is no value.
        maximum: (n, distributions); -1 where there is no value.
        buckets: for each distribution, ascending ``group << 13 | code``, where code is 0 for a value of 0, else
            the bucket and one.
        counts: for each distribution, the number of values in each of ``buckets``.
    """

    low: Integers
    high: Integers | None
    minimum: Integers
    maximum: Integers
    buckets: Sequence[Integers]
    counts: Sequence[Integers]

    def regroup(self, to: Integers, groups: int) -> Groups:
        """The same in fewer groups: group i becomes ``to[i]``, which is below ``groups``."""
        order, starts = _runs(to, groups)
        buckets, counts = [], []
        for keys, numbers in zip(self.buckets, self.counts, strict=True):
            moved = to[keys >> _CODE_BITS] << _CODE_BITS | keys & _CODE
            merged = _sum_equal(moved, numbers)
            buckets.append(merged[0])
            counts.append(merged[1])
        return Groups(
            np.add.reduceat(self.low[order], starts),
            None if self.high is None else np.add.reduceat(self.high[order], starts),
            np.minimum.reduceat(self.minimum[order], starts),
            np.maximum.reduceat(self.maximum[order], starts),
            buckets,
            counts,
        )


def group(
    assigned: Integers, groups: int, counters: Integers, values: Sequence[tuple[Integers, Flags]] = ()
) -> Groups:
    """Sum a block of events by group.

    Args:
        assigned: (events,) the group of each event, at most ``MAX_BLOCK`` of them.
        groups: how many there are, at least 1.
        counters: (counters, events) what each event adds, ≥ 0.
        values: for each distribution, (events,) the values in 0 … ``MAX_VALUE``, and which of them there are.
    """
    distributions = len(values)
    low = np.zeros((groups, len(counters) + 2 * distributions), dtype=np.int64)
    high = np.zeros_like(low)
    minimum = np.full((groups, distributions), MAX_VALUE, dtype=np.int64)
    maximum = np.full_like(minimum, -1)
    buckets, counts = [], []
    for column, added in enumerate(counters):
        _add_column(low[:, column], high[:, column], assigned, added)
    for d, (numbers, there) in enumerate(values):
        column = len(counters) + 2 * d
        mine, present = (assigned, numbers) if there.all() else (assigned[there], numbers[there])
        low[:, column] = np.bincount(mine, minlength=groups)
        _add_column(low[:, column + 1], high[:, column + 1], mine, present)
        np.minimum.at(minimum[:, d], mine, present)
        np.maximum.at(maximum[:, d], mine, present)
        codes = np.searchsorted(_BOUNDS, present) + (present > 0)
        found = np.unique(mine << _CODE_BITS | codes, return_counts=True)
        buckets.append(found[0])
        counts.append(found[1].astype(np.int64))
    return Groups(low, high if high.any() else None, minimum, maximum, buckets, counts)


def _add_column(low: Integers, high: Integers, assigned: Integers, numbers: Integers) -> None:
    """Sum numbers by group.

    ``bincount`` adds floats, which are exact here: at most 2^15 events (``MAX_BLOCK``) of less than 2^38.
    """
    largest = numbers.max(initial=0)
    if largest > _LOW:
        high[:] = np.bincount(assigned, numbers >> _SPLIT, len(high))
        numbers = numbers & _LOW
    if largest:
        low[:] = np.bincount(assigned, numbers, len(low))


class PaneTable:
    """Rows of panes. A pane's row is found by ``row`` and stays the same until the table is thrown away."""

    def __init__(self, view: View) -> None:
        self.view = view
        self._rows: dict[tuple[int, Key], int] = {}
        self._names: list[tuple[int, Key]] = []
        self._width = len(view.counters) + 2 * len(view.distributions)
        self._low = np.zeros((64, self._width), dtype=np.int64)
        self._high = np.zeros_like(self._low)
        self._minimum = np.full((64, len(view.distributions)), MAX_VALUE, dtype=np.int64)
        self._maximum = np.full_like(self._minimum, -1)
        self._changed = np.zeros(64, dtype=np.bool_)
        self._histograms = [_Histogram() for _ in view.distributions]

    def __len__(self) -> int:
        return len(self._names)

    @property
    def pending(self) -> bool:
        """Whether a pane changed since ``take``."""
        return bool(self._changed.any())

    def name(self, row: int) -> tuple[int, Key]:
        """The start and the key of a row's pane."""
        return self._names[row]

    def row(self, start: int, key: Key) -> int:
        """The row of a pane, which is added if it is new."""
        name = (start, key)
        row = self._rows.get(name)
        if row is None:
            row = self._rows[name] = len(self._names)
            self._names.append(name)
            if row == len(self._changed):
                self._grow()
        return row

    def add(self, rows: Integers, groups: Groups) -> None:
        """Add groups to rows, all of them different: group i belongs to ``rows[i]``."""
        self._changed[rows] = True
        self._low[rows] += groups.low[:, : self._width]
        if groups.high is not None:
            self._high[rows] += groups.high[:, : self._width]
        if self._histograms:
            self._minimum[rows] = np.minimum(self._minimum[rows], groups.minimum)
            self._maximum[rows] = np.maximum(self._maximum[rows], groups.maximum)
        for histogram, buckets, counts in zip(self._histograms, groups.buckets, groups.counts, strict=False):
            histogram.add(rows[buckets >> _CODE_BITS] << _CODE_BITS | buckets & _CODE, counts)

    def add_exactly(self, row: int, column: int, value: int) -> None:
        """Add one number of any size to one counter."""
        self._changed[row] = True
        self._low[row, column] += value & _LOW
        self._high[row, column] += value >> _SPLIT

    def take(self) -> list[PaneSnapshot]:
        """Snapshots of the panes that changed since the last call, in order of their rows."""
        rows = np.flatnonzero(self._changed)
        if not len(rows):
            return []
        self._changed[rows] = False
        sums = self._low[rows].tolist()
        high = self._high[rows]
        for i, column in np.argwhere(high).tolist():
            sums[i][column] = min(sums[i][column] + (int(high[i, column]) << _SPLIT), LARGEST)
        counters = len(self.view.counters)
        sketches: list[list[SketchSnapshot]] = [
            self._sketches(d, histogram, rows, [(s[counters + 2 * d], s[counters + 2 * d + 1]) for s in sums])
            for d, histogram in enumerate(self._histograms)
        ]
        return [
            PaneSnapshot(
                self.view.name,
                self._names[row][1],
                self._names[row][0],
                sums[i][:counters],
                [column[i] for column in sketches],
            )
            for i, row in enumerate(rows.tolist())
        ]

    def _sketches(
        self, distribution: int, histogram: _Histogram, rows: Integers, totals: list[tuple[int, int]]
    ) -> list[SketchSnapshot]:
        keys, counts = histogram.merged()
        begins = np.searchsorted(keys, rows << _CODE_BITS).tolist()
        ends = np.searchsorted(keys, (rows + 1) << _CODE_BITS).tolist()
        codes = (keys & _CODE) - 1
        minima = self._minimum[rows, distribution].tolist()
        maxima = self._maximum[rows, distribution].tolist()
        snapshots = []
        for i, (count, total) in enumerate(totals):
            begin, end = begins[i], ends[i]
            if not count:
                snapshots.append(SketchSnapshot(0, 0, 0, 0, 0, [], []))
                continue
            zeros = 0
            if codes[begin] < 0:
                zeros = int(counts[begin])
                begin += 1
            snapshots.append(
                SketchSnapshot(
                    count,
                    total,
                    minima[i],
                    maxima[i],
                    zeros,
                    codes[begin:end].tolist(),
                    counts[begin:end].tolist(),
                )
            )
        return snapshots

    def _grow(self) -> None:
        self._low = np.concatenate((self._low, np.zeros_like(self._low)))
        self._high = np.concatenate((self._high, np.zeros_like(self._high)))
        self._minimum = np.concatenate((self._minimum, np.full_like(self._minimum, MAX_VALUE)))
        self._maximum = np.concatenate((self._maximum, np.full_like(self._maximum, -1)))
        self._changed = np.concatenate((self._changed, np.zeros_like(self._changed)))


class _Histogram:
    """Counts by ``row << 13 | code``; what is added is merged when it is asked for."""

    def __init__(self) -> None:
        self._keys: list[Integers] = []
        self._counts: list[Integers] = []

    def add(self, keys: Integers, counts: Integers) -> None:
        self._keys.append(keys)
        self._counts.append(counts)

    def merged(self) -> tuple[Integers, Integers]:
        if not self._keys:
            return _NOTHING, _NOTHING
        if len(self._keys) > 1:
            keys, counts = _sum_equal(np.concatenate(self._keys), np.concatenate(self._counts))
            self._keys, self._counts = [keys], [counts]
        elif len(self._keys[0]) > 1 and not (np.diff(self._keys[0]) > 0).all():
            keys, counts = _sum_equal(self._keys[0], self._counts[0])
            self._keys, self._counts = [keys], [counts]
        return self._keys[0], self._counts[0]


def _runs(assigned: Integers, groups: int) -> tuple[Integers, Integers]:
    """The order that sorts by group, and where each of the groups begins in it."""
    order = np.argsort(assigned, kind="stable")
    return order, np.searchsorted(assigned[order], np.arange(groups))


def _sum_equal(keys: Integers, counts: Integers) -> tuple[Integers, Integers]:
    """The distinct keys, ascending, and the sum of the counts of each."""
    if not len(keys):
        return keys, counts
    order = np.argsort(keys, kind="stable")
    keys = keys[order]
    starts = np.flatnonzero(np.concatenate(([True], keys[1:] != keys[:-1])))
    return keys[starts], np.add.reduceat(counts[order], starts)

"""A mergeable log-bucket histogram with a stated relative error.

Values are non-negative integers (nanoseconds, milli-tokens per second, …), so that sums are exact and merging in
any order gives the same bytes. Bucket i holds (γ^(i-1), γ^i] with γ = 1.02; the estimate 2γ^i/(γ+1) is off by at
most (γ-1)/(γ+1) = 0.99 % of the value (Masson, Rim & Lee, "DDSketch", VLDB 2019, section 2). Buckets are found by
comparing integers and not by a logarithm, whose last bit differs between machines and between numpy and libm.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterable
from itertools import accumulate
from math import ceil, floor
from typing import Final

from tidegauge.schemas.pane import LARGEST, SketchSnapshot

GAMMA: Final = 1.02
RELATIVE_ERROR: Final = (GAMMA - 1) / (GAMMA + 1)
MAX_VALUE: Final = 2**62
"""Larger values count as this one."""


def _bounds() -> list[int]:
    bounds, numerator, denominator = [1], 1, 1
    while bounds[-1] < MAX_VALUE:
        numerator, denominator = numerator * 51, denominator * 50
        bounds.append(numerator // denominator)
    bounds[-1] = MAX_VALUE
    return bounds


BOUNDS: Final = _bounds()
"""The greatest integer of each bucket: ⌊γ^i⌋, computed exactly."""


_EMPTY: Final = SketchSnapshot(0, 0, 0, 0, 0, [], [])
_ESTIMATES: Final = [2 * GAMMA**bucket / (GAMMA + 1) for bucket in range(len(BOUNDS))]


class Sketch:
    """Counts of integer values by logarithmic bucket, with exact count, sum, minimum and maximum.

    Most sketches are read, merged once and written again, so they stay in their wire form until a value is added.
    """

    __slots__ = ("_buckets", "_frozen", "count", "maximum", "minimum", "total", "zeros")

    def __init__(self) -> None:
        self._buckets: dict[int, int] | None = None
        self._frozen: SketchSnapshot | None = _EMPTY
        self.count = 0
        self.total = 0
        self.minimum = 0
        self.maximum = 0
        self.zeros = 0

    def add(self, value: int) -> None:
        """Count one value, an integer ≥ 0 in the field's unit."""
        value = min(value, MAX_VALUE)
        if self.count == 0:
            self.minimum = self.maximum = value
        elif value < self.minimum:
            self.minimum = value
        elif value > self.maximum:
            self.maximum = value
        self.count += 1
        self.total = min(self.total + value, LARGEST)
        buckets = self._thaw()
        if value > 0:
            bucket = bisect_left(BOUNDS, value)
            buckets[bucket] = buckets.get(bucket, 0) + 1
        else:
            self.zeros += 1

    def merge(self, other: Sketch) -> None:
        """Add all that ``other`` counted."""
        if other.count == 0:
            return
        if self.count == 0:
            self._adopt(other.snapshot())
            return
        self.minimum = min(self.minimum, other.minimum)
        self.maximum = max(self.maximum, other.maximum)
        self.count += other.count
        self.total = min(self.total + other.total, LARGEST)
        self.zeros += other.zeros
        buckets = self._thaw()
        theirs = other.snapshot()
        for bucket, n in zip(theirs.buckets, theirs.counts, strict=True):
            buckets[bucket] = buckets.get(bucket, 0) + n

    def quantile(self, q: float) -> float | None:
        """The q-quantile (0 ≤ q ≤ 1) in the unit of the values, or ``None`` of an empty sketch.

        Interpolates between neighbouring ranks as numpy and pandas do by default. Both neighbours are known
        within 1 %, hence so is the result; the outermost ranks are exact.
        """
        return self.quantiles((q,))[0]

    def quantiles(self, qs: Iterable[float]) -> list[float | None]:
        """Several quantiles at the cost of one walk."""
        wanted = list(qs)
        if self.count == 0:
            return [None] * len(wanted)
        ranks: list[int] = []
        for q in wanted:
            position = q * (self.count - 1)
            ranks += (floor(position), ceil(position))
        # Among few values two quantiles lie between the same ranks: the walk must not have to turn back.
        estimates = self._at_ranks(sorted(set(ranks)))
        results: list[float | None] = []
        for q in wanted:
            position = q * (self.count - 1)
            low, high = estimates[floor(position)], estimates[ceil(position)]
            results.append(low + (high - low) * (position - floor(position)))
        return results

    def _at_ranks(self, ranks: list[int]) -> dict[int, float]:
        snapshot = self.snapshot()
        seen = list(accumulate(snapshot.counts, initial=self.zeros))
        last = self.count - 1
        estimates: dict[int, float] = {}
        for rank in ranks:
            if rank == 0:
                estimates[rank] = float(self.minimum)
            elif rank == last:
                estimates[rank] = float(self.maximum)
            elif rank < self.zeros:
                estimates[rank] = 0.0
            else:
                value = _ESTIMATES[snapshot.buckets[bisect_right(seen, rank) - 1]]
                estimates[rank] = min(max(value, self.minimum), self.maximum)
        return estimates

    def snapshot(self) -> SketchSnapshot:
        """The wire form; equal sketches give equal bytes."""
        if self._frozen is None:
            buckets = self._thaw()
            ordered = sorted(buckets)
            self._frozen = SketchSnapshot(
                self.count,
                self.total,
                self.minimum,
                self.maximum,
                self.zeros,
                ordered,
                [buckets[bucket] for bucket in ordered],
            )
        return self._frozen

    @classmethod
    def restore(cls, snapshot: SketchSnapshot) -> Sketch:
        """The sketch that ``snapshot`` was taken of.

        Raises:
            ValueError: the counts do not fit each other.
        """
        if (
            len(snapshot.buckets) != len(snapshot.counts)
            or snapshot.zeros + sum(snapshot.counts) != snapshot.count
        ):
            raise ValueError("the counts of a sketch do not fit each other")
        sketch = cls()
        sketch._adopt(snapshot)
        return sketch

    def _adopt(self, snapshot: SketchSnapshot) -> None:
        self.count = snapshot.count
        self.total = snapshot.total
        self.minimum = snapshot.minimum
        self.maximum = snapshot.maximum
        self.zeros = snapshot.zeros
        self._frozen = snapshot
        self._buckets = None

    def _thaw(self) -> dict[int, int]:
        """The buckets, to be changed."""
        if self._buckets is None:
            assert self._frozen is not None
            self._buckets = dict(zip(self._frozen.buckets, self._frozen.counts, strict=True))
        self._frozen = None
        return self._buckets

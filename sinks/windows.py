"""A sliding window over mergeable aggregates."""

from __future__ import annotations

from tidegauge.processors.core.aggregate import Aggregate
from tidegauge.processors.core.views import View


class SlidingWindow:
    """The merge of what was pushed and not yet expired, at three merges a step however long the window.

    A minimum or a maximum cannot be subtracted again, so a sum that adds the new and subtracts the old will not
    do. Two stacks do (Tangwongsan, Hirzel & Schneider, "Low-latency sliding-window aggregation in worst-case
    constant time", DEBS 2017, section 2): ``_newer`` is summed as it grows; once ``_older`` is empty, it takes
    all of ``_newer`` over, each entry with the merge of itself and all that came after it.
    """

    def __init__(self, view: View) -> None:
        self._view = view
        self._older: list[tuple[int, Aggregate]] = []
        self._newer: list[tuple[int, Aggregate]] = []
        self._newer_total = view.empty()

    def push(self, time: int, aggregate: Aggregate) -> None:
        """Add what belongs to ``time``; times must ascend."""
        self._newer.append((time, aggregate))
        self._newer_total.merge(aggregate)

    def expire(self, before: int) -> None:
        """Forget all times before ``before``."""
        while True:
            if not self._older:
                self._turn_over()
            if not self._older or self._older[-1][0] >= before:
                return
            self._older.pop()

    def total(self) -> Aggregate | None:
        """The merge of all that is in the window, or ``None`` of an empty one."""
        if not self._older and not self._newer:
            return None
        total = self._view.empty()
        if self._older:
            total.merge(self._older[-1][1])
        total.merge(self._newer_total)
        return total

    def _turn_over(self) -> None:
        suffix = self._view.empty()
        while self._newer:
            time, aggregate = self._newer.pop()
            merged = self._view.empty()
            merged.merge(suffix)
            merged.merge(aggregate)
            self._older.append((time, merged))
            suffix = merged
        self._newer_total = self._view.empty()
